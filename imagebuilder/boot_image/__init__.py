"""boot.img and boot.sig: everything that one board boots in one signed file, for HTTP boot and RAM disks."""
