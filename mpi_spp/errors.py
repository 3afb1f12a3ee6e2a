"""The one exception for input that the user can mend."""


class UserError(Exception):
    """Bad input: the message is one line that names the option or file, what is wrong and what to do.

    The command line prints it from one rank and exits with status 2. Anything else that is raised is a
    defect or a fault of the machine: it is shown with its traceback and aborts all ranks with status 1.
    """

    def __init__(self, message: str, *, agreed: bool = False) -> None:
        super().__init__(" ".join(message.split()))
        self.agreed = agreed  # every rank of the job has already been told
