"""Runs one program apart from everything; a script of its own: ``python -I -S sandbox.py < request.json``.

New process, mount, network, IPC and host-name namespaces; a root of its own with the system's programs read-only, and
one small writable folder; an unprivileged user; limits. Where the kernel refuses any of it, nothing is run and the exit
status is ``REFUSED``. It must not import anything of this project.
"""

import ctypes
import json
import os
import platform
import resource
import select
import signal
import sys

REFUSED = 97
NOBODY = 65534
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PDEATHSIG, NO_NEW_PRIVS = 1, 38
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""What a Python needs of the system."""

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    """Refuse where a call into the kernel failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise PermissionError(number, f"{what}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, data=None):
    """``mount(2)``."""
    encoded = [None if v is None else v.encode() for v in (source, target, kind, data)]
    checked(libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"mount {target}")


def main():
    """Set everything up, run the program, wait for it; its exit status."""
    request = json.loads(sys.stdin.buffer.read())
    root = os.getuid() == 0
    uid, gid = os.getuid(), os.getgid()
    flags = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    checked(libc.unshare(flags if root else flags | NEWUSER), "unshare")
    if not root:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{uid} {uid} 1")
        write("/proc/self/gid_map", f"{gid} {gid} 1")
    libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # another user or namespace of users clears it
    if os.getppid() == 1:
        raise ProcessLookupError(0, "who asked is gone")
    alive, go = os.pipe()  # closes when this process is gone
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            enter(request, (NOBODY, NOBODY) if root else (uid, gid), root, alive)
        except BaseException as error:
            refuse(error)
    os.close(alive)
    _, status = os.waitpid(child, 0)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def enter(request, user, root, alive):
    """In the new process: a root of its own, limits, another user, and the program."""
    mount(None, "/", None, REC | PRIVATE)
    place = "/tmp"  # what is mounted over it here, nobody else sees
    mount("tmpfs", place, "tmpfs", NOSUID | NODEV, f"size={request['disk_mb']}m,mode=755")
    for path in dict.fromkeys([*SYSTEM, request["python_home"]]):
        bring(path, place)
    os.makedirs(place + "/dev")
    for device in ("null", "zero", "urandom"):
        write(f"{place}/dev/{device}", "")
        mount(f"/dev/{device}", f"{place}/dev/{device}", None, BIND)
    os.makedirs(place + "/work")
    os.makedirs(place + "/old")
    number = PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise PermissionError(0, f"no pivot_root known for {platform.machine()}")
    checked(libc.syscall(number, place.encode(), (place + "/old").encode()), "pivot_root")
    os.chdir("/work")
    checked(libc.umount2(b"/old", DETACH), "umount of the old root")
    os.rmdir("/old")
    mount(None, "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    mount("tmpfs-work", "/work", "tmpfs", NOSUID | NODEV, f"size={request['disk_mb']}m,mode=700")
    write("/work/main.py", request["code"])
    write("/work/.stdin", request["stdin"])
    for path in ("/work", "/work/main.py", "/work/.stdin"):
        os.chown(path, *user)
    os.chdir("/work")
    if root:
        os.setgroups([])
        os.setresgid(user[1], user[1], user[1])
        os.setresuid(user[0], user[0], user[0])
    checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if root and os.getuid() == 0:
        raise PermissionError(0, "still the superuser")
    libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if select.select([alive], [], [], 0)[0]:
        raise ProcessLookupError(0, "who asked is gone")
    limit(request)
    os.dup2(os.open("/work/.stdin", os.O_RDONLY), 0)
    os.closerange(3, 1024)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/work", "OMP_NUM_THREADS": "1"}
    os.execve(request["python"], [request["python"], "-I", "-S", "-B", "main.py"], environment)


def bring(path, place):
    """A folder of the system, read-only, at the same place; a link as a link."""
    if os.path.islink(path):
        os.symlink(os.readlink(path), place + path)
    elif os.path.isdir(path) and not os.path.isdir(place + path):
        os.makedirs(place + path)
        mount(path, place + path, None, BIND | REC)
        kept = os.statvfs(place + path).f_flag & (NOSUID | NODEV | 8 | 1024 | 2048)
        mount(None, place + path, None, REMOUNT | BIND | RDONLY | NOSUID | kept)


def limit(request):
    """Time, memory, files, processes."""
    memory = request["memory_mb"] << 20
    for kind, value in (
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, request["disk_mb"] << 20),
        (resource.RLIMIT_NPROC, request["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, min(memory, 64 << 20)),
    ):
        resource.setrlimit(kind, (value, value))


def write(path, text):
    """Write a file."""
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)


def refuse(error):
    """Say why nothing is run."""
    os.write(2, f"lgrpo-code refuses to run: {error}\n".encode(errors="replace"))
    os._exit(REFUSED)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        refuse(error)
