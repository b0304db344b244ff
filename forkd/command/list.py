"""`forkd list`: the daemons of this user; of all users for root."""

from __future__ import annotations

import argparse
import json
import os

from forkd.command import render
from forkd.command.arguments import add_json
from forkd.ipc import discovery
from forkd.system.output import say

add_flags = add_json


def run(args: argparse.Namespace) -> int:
    found = discovery.find(os.environ)
    if args.json:
        say(json.dumps(found, indent=1))
    elif found:
        say(render.daemons(found))
    else:
        say("no daemon runs" + ("" if os.geteuid() == 0 else " that is this user's"))
    return 0
