#!/bin/sh
# Stand-in for userconf-pi, written for test images: userconf NAME CRYPTED-PASSWORD renames the first account.
set -eu
[ "$1" = pi ] || usermod --login "$1" --home "/home/$1" --move-home pi
usermod --password "$2" --shell /bin/bash "$1"
