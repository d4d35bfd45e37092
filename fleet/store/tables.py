"""The tables, as SQLAlchemy Core knows them.

Times are UTC seconds since 1970 (REAL). `migrations/` makes these tables; a test keeps both equal.
"""

from __future__ import annotations

import sqlalchemy as sa

from fleet.store.documents import DocumentColumn

metadata = sa.MetaData()

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits; SQLite's INTEGER has them, and only a column of that name counts by itself."""

boards = sa.Table(
    "boards",
    metadata,
    # Low half of the serial as 8 hex digits, or the MAC where no serial was seen.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("serial", sa.Text),
    sa.Column("macs", sa.JSON, nullable=False),
    sa.Column("revision", sa.BigInteger),
    sa.Column("model", sa.Text),
    sa.Column("first_seen", sa.Float, nullable=False),
    sa.Column("last_seen", sa.Float, nullable=False),
    # Why the board is held; NULL for the board of a declared node.
    sa.Column("held_reason", sa.Text),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("uuid", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("board", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("progressed_at", sa.Float, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    # What is under way, in a few words: "write 42 %".
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("serial", sa.Text),
    sa.Column("mac", sa.Text),
    sa.Column("image_id", sa.Text),
    sa.Column("disk_signature", sa.BigInteger),
    # Hex serial numbers of the certificate in force, and of the one before until the newer was used once.
    sa.Column("certificate", sa.Text, index=True),
    sa.Column("previous_certificate", sa.Text, index=True),
    sa.Column("agent_key", sa.Text),
    # SHA-256 of the key that waits for approval, and of the one that a person approved.
    sa.Column("pending_key", sa.Text),
    sa.Column("approved_key", sa.Text),
    sa.Column("generation", _LONG, nullable=False),
    sa.Column("join_allowed", sa.Boolean, nullable=False),
    sa.Column("node_password", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text),
    sa.Column("boots", sa.Integer, nullable=False),
    sa.Column("status", DocumentColumn),
    sa.Column("status_sequence", _LONG, nullable=False),
    sa.Column("status_at", sa.Float),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
    # Counts from 1 for each node, so that the first one is known before it is opened.
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("closed", sa.Float),
    sa.Column("why", sa.Text),
    # SHA-256 of the bearer token of the installer that was admitted last.
    sa.Column("token_sha256", sa.Text, index=True),
    # Random name of the installation, for the marker on the disk.
    sa.Column("installation", sa.Text),
    # The installation (JSON of `agent.protocol.Occupant`) on whose account the installer was refused.
    sa.Column("occupant", sa.Text),
)

# Re-images, replacements and decommissions, one row for each; none is ever deleted.
reimages = sa.Table(
    "reimages",
    metadata,
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
    # Of the intent that it opens.
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("requested_at", sa.Float, nullable=False),
    # Who wants it, and why.
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    # The image that is wanted; NULL: the cluster's.
    sa.Column("image_id", sa.Text),
    sa.Column("force_drain", sa.Boolean, nullable=False),
    # The node's state when it was ordered.
    sa.Column("was", sa.Text, nullable=False),
    # What a step needs that cannot be taken back, written before that step; see `fleet.reimage`.
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("closed_at", sa.Float),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
)
# One node has at most one that is open.
sa.Index(
    "ix_reimages_open",
    reimages.c.node,
    unique=True,
    sqlite_where=reimages.c.closed_at.is_(None),
    postgresql_where=reimages.c.closed_at.is_(None),
)

# Nodes that hold a place of the fleet lock; see `fleet.lock`.
holds = sa.Table(
    "holds",
    metadata,
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
    # Of the re-image under which it was taken.
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("taken_at", sa.Float, nullable=False),
)

# Rollouts of images, one row for each; none is ever deleted, and one at most is open.
rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("image_id", sa.Text, nullable=False),
    sa.Column("requested_at", sa.Float, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    # What was asked for: canary, batch, soak time.
    sa.Column("settings", sa.JSON, nullable=False),
    # Every node's step in its order: list of objects; see `fleet.rollout.record`.
    sa.Column("steps", sa.JSON, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("closed_at", sa.Float),
)

tickets = sa.Table(
    "tickets",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), nullable=False, index=True),
    sa.Column("intent", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("minted_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float),
    # SHA-256 of the agent's public key that used it.
    sa.Column("used_by", sa.Text),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _LONG, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("node", sa.Text, index=True),
    sa.Column("board", sa.Text, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

# Device keys (in the firmware's OTP memory) that are known to be a board's own.
device_keys = sa.Table(
    "device_keys",
    metadata,
    # SHA-256 of the public key, SubjectPublicKeyInfo in DER.
    sa.Column("key_sha256", sa.Text, primary_key=True),
    # Low half of the serial, as in `boards`.
    sa.Column("board", sa.Text, nullable=False, index=True),
    # The node whose board showed it; NULL until one did.
    sa.Column("node", sa.Text, index=True),
    # How it came here: "imported", or "first use".
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# The board that a node was installed on, or last enrolled on.
node_boards = sa.Table(
    "node_boards",
    metadata,
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
    sa.Column("serial", sa.Text),
    sa.Column("macs", sa.JSON, nullable=False),
    # The intent under which its installer claimed to be the node, and that one's key (its SHA-256).
    sa.Column("intent", sa.Integer),
    sa.Column("key", sa.Text),
    # Another board claims the same, under the same intent.
    sa.Column("contested", sa.Boolean, nullable=False),
)

# What a person turned away: one key of a node (its SHA-256), or the whole node (the key is "").
refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)

kv = sa.Table(
    "kv",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    # The part of the token that is no secret, for people.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _LONG, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    # "socket", or the name of a token.
    sa.Column("who", sa.Text, nullable=False),
    # The operation's id in the API.
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

repeats = sa.Table(
    "repeats",
    metadata,
    # Who asked, and the idempotency key.
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_sha256", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False, index=True),
    # NULL while the request is under way.
    sa.Column("status", sa.Integer),
    # NULL also where the answer holds a secret.
    sa.Column("answer", sa.Text),
)
