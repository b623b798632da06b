"""An error that nobody foresaw, in words that may go anywhere: by class and place. Its own text may quote a secret."""

import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def told(error: BaseException) -> str:
    """Where it was raised and through which calls, the innermost first."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = " < ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    return f"unforeseen {type(error).__name__} at {places or 'an unknown place'}"


def place(error: BaseException) -> str:
    """For a client: the innermost place alone."""
    return told(error).partition(" < ")[0]


def _short(path: str) -> str:
    """Below our own tree without what is above it: where Daybook is installed is nobody's business."""
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else Path(path).name
