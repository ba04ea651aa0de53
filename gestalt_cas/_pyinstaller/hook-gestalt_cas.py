"""The hook that PyInstaller runs when something imports gestalt_cas; what it adds is in the package around it."""

from pathlib import Path
from typing import Any

from gestalt_cas._pyinstaller import data_files, hidden_imports


def hook(hook_api: Any) -> None:
    """Add what belongs to the very package that is bundled, which is not always the one this hook comes from."""
    package = Path(hook_api.__path__[0])
    hook_api.add_datas(data_files(package))
    hook_api.add_imports(*hidden_imports(package))
