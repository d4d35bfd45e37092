"""The program a node starts as /usr/local/bin/k3s: Python >= 3.10, standard library, the `openssl` command.

What is real: command line, configuration files, TLS, join tokens, the supervisor's join protocol with its
status codes and error texts, node passwords, a Node object that goes NotReady when its heartbeat stops.
What is not: containers, pods, etcd, a network.

    cli -> server -> local: supervisor + kube_api -> cluster -> store   answered from memory, kept in one file
                  -> relay: a second server passes every call on to the first
        -> agent  -> client                                             join, register, heartbeat
"""
