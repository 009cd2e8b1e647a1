"""Counts assertions and prints the line that xtask looks for."""

import sys


class Checks:
    def __init__(self, name):
        self.name = name
        self.count = 0

    def equal(self, got, want, what=""):
        self.count += 1
        if got != want:
            sys.exit(f"{self.name}: check {self.count} {what}: got {got!r}, want {want!r}")

    def true(self, got, what=""):
        self.equal(bool(got), True, what)

    def done(self):
        print(f"ok {self.name} {self.count} checks")


def address():
    return sys.argv[1], int(sys.argv[2])
