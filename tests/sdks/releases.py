"""What each published release of gestalt-sdk is; the matrix compares it with what the installed release says of itself.

Releases differ in little (contract 2.1): the protocol version, where generated code lies, the names of the socket's
variable and of the adapter class, whether references carry a bucket, and which S3 client they bring.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST, LAST = 8, 29
CI = ("a8", "a18", "a19", "a20", "a26", "a29")
"""The releases that the tests run: the ends, and both sides of each change of the wire or the runtime."""


@dataclass(frozen=True)
class Release:
    """One release, by its number: 8 is 0.0.1a8."""

    number: int

    @property
    def name(self) -> str:
        return f"a{self.number}"

    @property
    def requirement(self) -> str:
        return f"gestalt-sdk==0.0.1{self.name}"

    @property
    def protocol(self) -> int:
        """The one version that the SDK's own lifecycle speaks."""
        return 2 if self.number == 8 else 3 if self.number < 20 else 4 if self.number < 27 else 5

    @property
    def era(self) -> str:
        """What stands in the names of a host's variables; see `wire.process.host_names`."""
        return "PLUGIN" if self.number < 20 else "PROVIDER"

    @property
    def adapter(self) -> str:
        return "PluginProviderAdapter" if self.number < 20 else "AppProviderAdapter"

    @property
    def generated(self) -> str:
        """The package of the code that was generated from the protocol's files."""
        return "gestalt.gen.v1" if self.number < 19 else "gestalt._gen.v1"

    @property
    def bucketed(self) -> bool:
        return self.number < 20

    @property
    def starter(self) -> bool:
        """Whether the lifecycle has StartProvider."""
        return self.number >= 18

    @property
    def telemetry(self) -> bool:
        """Whether OpenTelemetry comes with it."""
        return self.number >= 18

    @property
    def client(self) -> str:
        """Which of the two clients it has, by the script that drives it: of objects, or generated from the protocol."""
        return "objects" if self.number < 25 else "generated"

    @property
    def runs(self) -> bool:
        """Whether it has the command `gestalt run`."""
        return self.number >= 28


ALL = tuple(Release(number) for number in range(FIRST, LAST + 1))


def named(name: str) -> Release:
    """The release of a name such as a8 or 0.0.1a8; a later one than is known counts as the last that is."""
    digits = name.removeprefix("0.0.1").removeprefix("a")
    if not digits.isdecimal() or int(digits) < FIRST:
        raise ValueError(f"no release of gestalt-sdk is named {name!r}; they are a{FIRST} to a{LAST}")
    return Release(int(digits))
