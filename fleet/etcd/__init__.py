"""The cluster's etcd, asked directly: who its members are, who leads, and its data as a snapshot."""
