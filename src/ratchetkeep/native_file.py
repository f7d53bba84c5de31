"""BaileysEx's native file persistence by its own names: a folder of ETF files.

Each function takes the folder first, or works in ``baileys_native_auth_info``. They differ from
BaileysEx in what they promise: commits are atomic, nothing damaged is taken for absent, and
loading never makes credentials.
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
    "use_native_file_auth_state",
]

DEFAULT_FOLDER = "baileys_native_auth_info"

_backend = Backend("baileysex", DEFAULT_FOLDER)
use_native_file_auth_state = _backend.use_auth_state
load_credentials = _backend.load_credentials
save_credentials = _backend.save_credentials
load_keys = _backend.load_keys
save_keys = _backend.save_keys
delete_keys = _backend.delete_keys
