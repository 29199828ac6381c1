"""Stands in for curl on a machine without it: `-H`, `-d`, `-w` and one URL; fails as `curl -f` does."""

import argparse
import sys
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("-sS", action="store_true")
parser.add_argument("-H", action="append", default=[])
parser.add_argument("-d")
parser.add_argument("-w", default="")
given = parser.parse_args()
request = urllib.request.Request(  # noqa: S310 - the service's own URL
    given.url,
    data=given.d.encode() if given.d else None,
    headers=dict(header.split(": ", 1) for header in given.H),
)
with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the service's own URL
    sys.stdout.write(answer.read().decode() + given.w.replace("\\n", "\n"))
