BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE boards (
	id TEXT NOT NULL, 
	serial TEXT, 
	macs JSON NOT NULL, 
	revision BIGINT, 
	model TEXT, 
	first_seen FLOAT NOT NULL, 
	last_seen FLOAT NOT NULL, 
	held_reason TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "boards" VALUES('abcd0001','10000000abcd0001','["2c:cf:67:00:00:01"]',13648240,'Raspberry Pi 5',1790000000.0,1790000400.0,NULL);
CREATE TABLE events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at FLOAT NOT NULL, 
	node TEXT, 
	board TEXT, 
	kind TEXT NOT NULL, 
	text TEXT NOT NULL, 
	hint TEXT NOT NULL, 
	detail JSON NOT NULL
);
INSERT INTO "events" VALUES(1,1790000000.0,'pi5-1','abcd0001','state','declared in cluster.yaml','','{}');
INSERT INTO "events" VALUES(2,1790000060.0,'pi5-1','abcd0001','intent','intent 1 opened: this node may be installed once, within 24 h','','{}');
INSERT INTO "events" VALUES(3,1790000120.0,'pi5-1','abcd0001','install','installed and verified','','{}');
INSERT INTO "events" VALUES(4,1790000180.0,'pi5-1','abcd0001','enrolment','enrolled: showed its ticket','','{}');
INSERT INTO "events" VALUES(5,1790000240.0,'pi5-1','abcd0001','state','Ready','','{}');
CREATE TABLE intents (
	node TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	opened FLOAT NOT NULL, 
	expires FLOAT NOT NULL, 
	attempts INTEGER NOT NULL, 
	closed FLOAT, 
	why TEXT, 
	token_sha256 TEXT, 
	PRIMARY KEY (node, number), 
	FOREIGN KEY(node) REFERENCES nodes (name)
);
INSERT INTO "intents" VALUES('pi5-1',1,1790000000.0,1790086400.0,0,1790000120.0,'installed','cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd');
CREATE TABLE kv (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "kv" VALUES('k3s.founder','pi5-1');
INSERT INTO "kv" VALUES('k3s.founded','pi5-1');
CREATE TABLE nodes (
	name TEXT NOT NULL, 
	uuid TEXT NOT NULL, 
	role TEXT NOT NULL, 
	board TEXT NOT NULL, 
	state TEXT NOT NULL, 
	since FLOAT NOT NULL, 
	progressed_at FLOAT NOT NULL, 
	attempt INTEGER NOT NULL, 
	detail TEXT NOT NULL, 
	serial TEXT, 
	mac TEXT, 
	image_id TEXT, 
	disk_signature BIGINT, 
	certificate TEXT, 
	previous_certificate TEXT, 
	agent_key TEXT, 
	pending_key TEXT, 
	approved_key TEXT, 
	generation INTEGER NOT NULL, 
	join_allowed BOOLEAN NOT NULL, 
	node_password TEXT NOT NULL, 
	boot_id TEXT, 
	boots INTEGER NOT NULL, 
	status JSON, 
	status_sequence INTEGER NOT NULL, 
	status_at FLOAT, 
	PRIMARY KEY (name), 
	UNIQUE (uuid)
);
INSERT INTO "nodes" VALUES('pi5-1','6f1c3d5e-0000-4000-8000-000000000001','server','pi5','ready',1790000300.0,1790000300.0,1,'','10000000abcd0001','2c:cf:67:00:00:01','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',305441741,'5e12',NULL,'abababababababababababababababababababababababababababababababab',NULL,NULL,1,1,'0123456789abcdef0123456789abcdef','boot-2',1,'{"sequence": 41, "boot_id": "boot-2", "hardware": {"serial": "10000000abcd0001", "model": "Raspberry Pi 5 Model B Rev 1.0", "macs": ["2c:cf:67:00:00:01"], "memory_bytes": 8589934592, "revision": 13648240, "boot_mode": null}, "health": {"uptime_s": 300.0, "load1": 0.1, "memory_available_bytes": 1073741824, "root_free_bytes": 1073741824, "clock_synchronised": true, "temperature_c": null, "throttled": null, "storage_wear_percent": null, "pressure_some_avg10": {}}, "addresses": ["10.77.0.11"], "k3s": "running", "k3s_version": "k3s version v1.33.5+k3s1", "generation": 1, "problems": [], "disk_boot": true, "image_id": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "agent_version": "0.1.0"}',41,1790000400.0);
CREATE TABLE tickets (
	sha256 TEXT NOT NULL, 
	node TEXT NOT NULL, 
	intent INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	minted_at FLOAT NOT NULL, 
	used_at FLOAT, 
	used_by TEXT, 
	PRIMARY KEY (sha256), 
	FOREIGN KEY(node) REFERENCES nodes (name)
);
INSERT INTO "tickets" VALUES('efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef','pi5-1',1,1,1790000020.0,1790000180.0,'abababababababababababababababababababababababababababababababab');
CREATE INDEX ix_tickets_node ON tickets (node);
CREATE INDEX ix_events_node ON events (node);
CREATE INDEX ix_events_board ON events (board);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',5);
COMMIT;
