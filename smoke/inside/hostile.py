"""Random requests to the root helper, of the kind the unit tests have: hostile.py COUNT.

Prints how often each kind of answer came.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.unit.privileged import scenes_helper as scenes

scenes.SOCKET = "/run/banger-root/helper.sock"
scenes._WORDS[:] = [word.replace("/srv/state", "/var/lib/banger/bait") for word in scenes._WORDS]

with ThreadPoolExecutor(8) as pool:
    print(json.dumps(Counter(pool.map(scenes._send_random, range(int(sys.argv[1]))))))
