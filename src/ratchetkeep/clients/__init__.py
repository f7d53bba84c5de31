"""Adapters that make a device the auth state of a client library.

Each is imported by itself and needs its client installed; importing this package imports none.

* :mod:`ratchetkeep.clients.pyaileys`: for ``pyaileys`` (the extra ``pyaileys``).
* :mod:`ratchetkeep.clients.waeys`: for ``waeys`` (the extra ``waeys``).
"""
