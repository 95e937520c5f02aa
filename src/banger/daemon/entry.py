"""`bangerd`: which of the services it is. The root helper is to load nothing but its own."""

from __future__ import annotations

import sys

ROOT_HELPER = "--root-helper"
IMAGE_BUILDER = "--image-builder"


def main() -> int:
    """Run the daemon, or what `--root-helper` or `--image-builder` alone says; the exit status."""
    if sys.argv[1:] == [ROOT_HELPER]:
        from banger.privileged import helper

        return helper.main()

    if sys.argv[1:] == [IMAGE_BUILDER]:
        from banger.image import serving

        return serving.main()

    from banger.daemon import main as daemon

    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
