"""The program a node starts as /usr/local/bin/k3s: Python >= 3.10, standard library, the `openssl` command.

What is real: command line, configuration files, TLS, join tokens, the supervisor's join protocol with its
status codes and error texts, node passwords, a Node object that goes NotReady when its heartbeat stops.
What is not: containers, a network; etcd where it is not given (K3S_SIM_ETCD).

    cli -> server -> etcd_ground   a member of a real etcd, shared by all servers     (host tests)
                  -> file_ground   objects in one file                                (virtual boards)
                  -> relay_ground  a further server that passes every call on         (virtual boards)
                  -> local_cluster: supervisor + kube_api -> cluster -> datastore
        -> agent  -> client                                                       join, register, heartbeat
"""
