"""A stand-in for k3s on virtual nodes, for places where the real release can not be downloaded.

It is a simulator and says so wherever it shows itself: `--version`, every log line, the nodes' kubelet
version, a label and an annotation. `node/` is the program that runs on the nodes (standard library and the
`openssl` command only); `release` packs it into a directory that looks like a k3s release.
"""
