"""Virtual Raspberry Pis: the boot firmware, QEMU machines behind it, a private network between them."""
