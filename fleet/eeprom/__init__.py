"""The bootloader's settings: which are known, what we recommend and why, what is wrong with a file of them.

Pure. Sources: Raspberry Pi documentation, "EEPROM bootloader", and the release notes of the repository
raspberrypi/rpi-eeprom.
"""
