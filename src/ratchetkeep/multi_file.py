"""Baileys' multi-file auth state by its own names: a folder of JSON files.

Each function takes the folder first, or works in ``baileys_auth_info``. The files are the same as
Baileys'; commits are atomic, nothing damaged is taken for absent, and loading never makes
credentials.
"""

from ratchetkeep._auth_state import AuthState, AuthStateHelper, Backend, KeyStore

__all__ = [
    "DEFAULT_FOLDER",
    "AuthState",
    "AuthStateHelper",
    "KeyStore",
    "delete_keys",
    "load_credentials",
    "load_keys",
    "save_credentials",
    "save_keys",
    "use_multi_file_auth_state",
]

DEFAULT_FOLDER = "baileys_auth_info"

_backend = Backend("baileys", DEFAULT_FOLDER)
use_multi_file_auth_state = _backend.use_auth_state
load_credentials = _backend.load_credentials
save_credentials = _backend.save_credentials
load_keys = _backend.load_keys
save_keys = _backend.save_keys
delete_keys = _backend.delete_keys
