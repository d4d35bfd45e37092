"""What a server needs to be one of this cluster, kept in etcd under a key of the token, encrypted with it.

    /bootstrap/<first 12 hex of the token's SHA-256>

It is why a snapshot is worth nothing without the token that the cluster had then. k3s encrypts with AES-GCM
and a key derived by PBKDF2; here it is what the openssl command offers, AES-CBC with PBKDF2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

from lab.k3s_sim.node import log
from lab.k3s_sim.node.credentials import OTHER_TOKEN
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.etcd_client import EtcdClient
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.protocol import BOOTSTRAP_FILES

_PREFIX = "/bootstrap/"
_VARIABLE = "K3S_SIM_PASSPHRASE"
_ENC = ("openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-md", "sha256", "-pass", f"env:{_VARIABLE}")


def keep_bootstrap_data(client: EtcdClient, directory: Path, password: str) -> None:
    """Write the files of `directory` (<data-dir>/server) to etcd unless they are there.

    Raises:
        K3sError: the cluster has another token.
        EtcdError: etcd did not answer.
    """
    if _find(client, password) is None:
        client.swap(_key(password), _sealed(_collect(directory), password), 0)


def restore_bootstrap_data(client: EtcdClient, directory: Path, password: str) -> None:
    """Write the files from etcd to `directory`, if etcd has any.

    Raises:
        K3sError: the cluster had another token.
        EtcdError: etcd did not answer.
    """
    found = _find(client, password)
    if found is None:
        return
    for key, content in json.loads(_opened(found, password)).items():
        file = directory / BOOTSTRAP_FILES[key]
        if not file.exists() or file.read_bytes() != base64.b64decode(content):
            log.warning(f"Updating {file} from the datastore")
            write_atomically(file, base64.b64decode(content))


def _find(client: EtcdClient, password: str) -> bytes | None:
    found, _ = client.get_prefix(_PREFIX)
    own = next((item for item in found if item.key == _key(password)), None)
    if own is None and found:
        raise K3sError(OTHER_TOKEN)
    return own.value if own else None


def _key(password: str) -> str:
    return _PREFIX + hashlib.sha256(password.encode()).hexdigest()[:12]


def _collect(directory: Path) -> bytes:
    contents = {
        key: base64.b64encode((directory / name).read_bytes()).decode()
        for key, name in BOOTSTRAP_FILES.items()
        if (directory / name).exists()
    }
    return json.dumps(contents).encode()


def _sealed(plain: bytes, password: str) -> bytes:
    return _openssl(("-e", "-salt"), plain, password)


def _opened(sealed: bytes, password: str) -> bytes:
    return _openssl(("-d",), sealed, password)


def _openssl(arguments: tuple[str, ...], data: bytes, password: str) -> bytes:
    environ = {"PATH": "/usr/bin:/bin:/usr/local/bin", _VARIABLE: password}
    done = subprocess.run([*_ENC, *arguments], input=data, capture_output=True, env=environ, check=False)
    if done.returncode != 0:
        raise K3sError(f"{OTHER_TOKEN}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
