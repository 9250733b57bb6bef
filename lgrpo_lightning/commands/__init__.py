"""The commands of ``lgrpo``, a module each with ``main(argv)``."""
