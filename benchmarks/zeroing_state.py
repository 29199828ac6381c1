"""What of the zeroing environment is in force in this process, in a line."""

from service.memory.zeroing import in_force


def zeroing_line() -> str:
    """`shim, PYTHONMALLOC=malloc, LD_BIND_NOW`, or what of it there is."""
    found = in_force()
    return ", ".join(
        (
            f"{found.mode}" if found.mode != "none" else "freed memory not wiped",
            "PYTHONMALLOC=malloc" if found.pymalloc_off else "pymalloc",
            "LD_BIND_NOW" if found.bind_now else "lazy binding",
        )
    )
