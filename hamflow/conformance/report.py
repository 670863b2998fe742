"""What the conformance kit found: a verdict and a number for every law."""

import dataclasses
from typing import Any, Literal

Verdict = Literal["pass", "FAIL", "does not apply"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One law, measured.

    Args:
        name: the law.
        verdict: "pass", "FAIL" or "does not apply".
        value: what was measured, smaller being better, or None.
        bound: what `value` must not exceed, or None.
        note: what the number is, or why the law does not apply.
    """

    name: str
    verdict: Verdict
    value: float | None = None
    bound: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found; `print` shows it as a table."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no law was broken."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """The names of the laws that were broken."""
        return tuple(finding.name for finding in self.findings if finding.verdict == "FAIL")

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"no law is called {name!r}: {', '.join(finding.name for finding in self.findings)}")

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        rows = []
        for f in self.findings:
            value = "" if f.value is None else f"{f.value:.2e}"
            bound = "" if f.bound is None else f"<= {f.bound:.2e}"
            rows.append(f"{f.verdict:<14}  {f.name:<{width}}  {value:>9}  {bound:<11}  {f.note}".rstrip())
        laws = [f for f in self.findings if f.verdict != "does not apply"]
        end = f"{len(laws) - len(self.failures)} of {len(laws)} laws hold"
        return "\n".join([*rows, end + ("" if self.passed else ": broken are " + ", ".join(self.failures))])


def at_most(name: str, value: Any, bound: float, note: str = "") -> list[Finding]:
    """A law that holds if `value` does not exceed `bound`."""
    number = float(value)
    return [Finding(name, "pass" if number <= bound else "FAIL", number, bound, note)]  # a NaN fails


def skipped(name: str, why: str) -> list[Finding]:
    """A law that does not apply, and why."""
    return [Finding(name, "does not apply", note=why)]
