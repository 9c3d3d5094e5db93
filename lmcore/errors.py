"""The exceptions that speak to the person who typed the command."""


class UserError(Exception):
    """What was wrong and what would be right, in one message; shown without a traceback."""


class DiskError(UserError):
    """A file or folder cannot be written: the machine's fault, not that of a recipe."""


# what PyTorch says, on Linux, on Windows and of a GPU
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that there is too little memory, of the machine or of its GPU."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _NO_MEMORY)
