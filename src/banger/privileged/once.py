"""One operation in a process of its own: `python -m banger.privileged.once SITE < request`.

For a daemon that is root already and has no helper. SITE is a Site as JSON: who may start this is
root, so whose files they are is for the caller to say.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from banger.privileged import codec
from banger.privileged.helper import Peer, answer
from banger.privileged.site import Site


def main() -> int:
    """Answer the request on standard input on standard output."""
    os.umask(0o077)
    site: Site = codec.convert(Site, json.loads(sys.argv[1]), "site")
    Path(site.jails).mkdir(mode=0o700, parents=True, exist_ok=True)
    line = sys.stdin.buffer.readline(codec.MAX_MESSAGE + 1)
    sys.stdout.buffer.write(answer(site, line, Peer(pid=os.getppid(), uid=os.getuid())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
