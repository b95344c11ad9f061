"""PyAV, which holds FFmpeg: an extra of this package, so it is imported where a video is read and not before."""

import os
from types import ModuleType

from basicsr.errors import OptionError

OLDEST = 18  # the first version that writes display matrices, chapters and attachments


def load_av() -> ModuleType:
    """Return the module `av`.

    Raises:
        OptionError: when it is not installed, or too old.
    """
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings otherwise; 1: errors only
    advice = f"pip install 'av>={OLDEST}', which needs Python 3.11, or basicsr with the extra [video]"
    try:
        import av
    except ImportError as error:
        raise OptionError(f"videos need PyAV, which is not installed; {advice}") from error
    if int(av.__version__.split(".")[0]) < OLDEST:
        raise OptionError(f"videos need PyAV {OLDEST} or newer, this is {av.__version__}; {advice}")
    return av
