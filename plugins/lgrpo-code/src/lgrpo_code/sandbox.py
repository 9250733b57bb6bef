"""The first process of a program's namespaces; a script of its own, started by ``runner.py`` through ``unshare``.

It makes a root with the system's programs read-only and one small writable folder, starts the program in it as an
unprivileged user with limits, and says on a pipe of its own how the program ended. When it leaves, the kernel ends
everything that the program has started. It must not import anything of this project.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import threading

NOBODY = 65534
NEWUSER = 0x10000000
NOSUID, NODEV, BIND, REC = 2, 4, 4096, 16384
READ_ONLY = (ctypes.c_uint64 * 4)(1 | NOSUID, 0, 0, 0)  # struct mount_attr
MOUNT_SETATTR, HERE, RECURSIVE = 442, -100, 0x8000  # one number on every architecture since Linux 5.12
NO_NEW_PRIVS = 38
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""What a Python needs of the system."""
ROOT = "/sys"  # what is mounted over it here, nobody else sees
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/work",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # each would take 64 MB of the address space
}

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    """Refuse where a call into the kernel failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, data=None):
    """``mount(2)``."""
    encoded = [None if v is None else v.encode() for v in (source, target, kind, data)]
    checked(libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"mount {target}")


def main(status, trainer):
    """Set everything up, start the program, and leave when it ends, or when the trainer says so or is gone."""
    request = json.loads(sys.stdin.buffer.readline())
    build(request)
    asks, answers = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter(request, status, asks[1], answers[0])
        except BaseException as error:
            os.write(2, f"{error}\n".encode(errors="replace"))
            os._exit(1)
    os.close(asks[1])
    if number := os.read(asks[0], 32).decode():
        for kind in ("uid", "gid"):
            write(f"/proc/{number}/{kind}_map", f"{NOBODY} {NOBODY if request['superuser'] else 0} 1")
        os.write(answers[1], b"mapped")
    threading.Thread(target=watch, args=(trainer,), daemon=True).start()
    while True:  # what the program has left behind is waited for here, too
        ended, code = os.wait()
        if ended == child:
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(code))
            os._exit(0)


def watch(trainer):
    """Leave, and with this process everything in its namespaces, when the trainer writes a line or has ended."""
    poll = select.poll()
    for descriptor in (0, trainer):
        poll.register(descriptor, select.POLLIN)
    poll.poll()
    os._exit(0)


def build(request):
    """A root of the program's own."""
    mount("root", ROOT, "tmpfs", NOSUID | NODEV, "mode=755")
    for path in dict.fromkeys([*SYSTEM, request["python_home"]]):
        if os.path.islink(path):
            os.symlink(os.readlink(path), ROOT + path)
        elif os.path.isdir(path) and not os.path.isdir(ROOT + path):
            os.makedirs(ROOT + path)
            mount(path, ROOT + path, None, BIND | REC)
    for folder in ("/dev", "/work"):
        os.mkdir(ROOT + folder)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        write(ROOT + device, "")
        mount(device, ROOT + device, None, BIND)
    write(ROOT + "/main.py", request["code"])
    write(ROOT + "/input", request["stdin"])
    size = ctypes.c_size_t(ctypes.sizeof(READ_ONLY))
    checked(libc.syscall(MOUNT_SETATTR, HERE, ROOT.encode(), RECURSIVE, READ_ONLY, size), "mount_setattr")
    disk = request["disk_mb"]
    mount("work", ROOT + "/work", "tmpfs", NOSUID | NODEV, f"size={disk}m,nr_inodes={disk << 8},mode=777")


def enter(request, status, asks, answers):
    """In the new process: a user without rights, limits, and the program."""
    if request["superuser"]:
        os.setgroups([])
    checked(libc.unshare(NEWUSER), "unshare of the user")  # processes are counted in each namespace of users
    os.write(asks, os.readlink("/proc/self").encode())
    os.read(answers, 16)
    os.chroot(ROOT)  # within it the kernel makes no further namespace of users
    os.chdir("/work")
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.dup2(os.open("/input", os.O_RDONLY), 0)
    for kind, value in request["limits"].items():
        resource.setrlimit(getattr(resource, kind), (value, value))
    os.write(status, b"started\n")
    os.closerange(3, 1 << 20)
    os.execve(request["python"], [request["python"], "-I", "-S", "-B", "/main.py"], ENVIRONMENT)


def write(path, text):
    """Write a file."""
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(*map(int, sys.argv[1:]))
