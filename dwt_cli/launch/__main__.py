"""``python -m dwt_cli.launch rank|job|node FILE``: a process for a run that is packed in a file."""

import sys
from pathlib import Path

from dwt_cli.launch.process import main

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
