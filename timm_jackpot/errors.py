"""Every error that a user can cause, in one tree.

    JackpotError (a ValueError)
    ├── ConfigError      a flag, a recipe or a combination of them makes no sense
    ├── BaseError        the base cannot be built, found or masked
    │   └── BaseMismatchError   a base was found, but it is not the one that was meant
    ├── DataError        a data set is missing, unreadable or does not fit the base
    ├── ArtifactError    an artifact is damaged, edited, incomplete or too new
    ├── HubError         the Hugging Face Hub refused, or could not be reached
    ├── ServingError     a JackpotModel has no such adapter, or was asked for what it cannot do while it serves
    └── TrainingError    a run could not go on (a loss that is not a number, ranks that disagree)
        └── RunInterrupted      it was told to stop, and can be resumed

The message of each is a single sentence or two for the person at the keyboard: what was wrong, what was
expected, what to do.
"""


class JackpotError(ValueError):
    """Root of the tree: catch this to catch everything that timm_jackpot raises on purpose."""


class ConfigError(JackpotError):
    pass


class BaseError(JackpotError):
    pass


class BaseMismatchError(BaseError):
    pass


class DataError(JackpotError):
    pass


class ArtifactError(JackpotError):
    pass


class HubError(JackpotError):
    pass


class ServingError(JackpotError):
    pass


class TrainingError(JackpotError):
    pass


class RunInterrupted(TrainingError):
    """A signal stopped a run after a step; its state is on the disk."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
