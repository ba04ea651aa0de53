"""Runs the `check_…` functions of a module and prints one JSON object for each: its part, name, and what went wrong."""

from __future__ import annotations

import json
import traceback


def run(part, module, subject):
    for name, check in vars(module).items():
        if name.startswith("check_"):
            report(part, name.removeprefix("check_"), check, subject)


def report(part, name, check, *subject):
    failure = ""
    try:
        check(*subject)
    except Exception:  # noqa: BLE001 - whatever it is, it is this check's result
        failure = traceback.format_exc()
    print(json.dumps({"part": part, "check": name, "failure": failure}), flush=True)
