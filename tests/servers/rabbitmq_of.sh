#!/usr/bin/env bash
# Another RabbitMQ than this host's own: that of a Debian suite, in a root of its own.
#
#   tests/servers/rabbitmq_of.sh SUITE FOLDER
#
# makes FOLDER/root with debootstrap, and FOLDER/rabbitmq-server, which starts the broker in it:
# COREPRESS_RABBITMQ_SERVER=FOLDER/rabbitmq-server has tests use that. Needs Linux, root and half a gigabyte.
set -euo pipefail
suite=$1
mkdir -p "$2"
folder=$(realpath "$2")

if ! [ -x "$folder/root/usr/lib/rabbitmq/bin/rabbitmq-server" ]; then
  command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
  rm -rf "$folder/root"
  debootstrap --variant=minbase --include=rabbitmq-server "$suite" "$folder/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
fi
cp /etc/hosts "$folder/root/etc/hosts"
cat >"$folder/rabbitmq-server" <<LAUNCHER
#!/bin/sh
# the broker sees the folder of its configuration, data and logs; the process that is started is the broker
exec unshare --mount sh -ec '
  root=\$0 node=\$(dirname "\$RABBITMQ_CONFIG_FILE")
  mount -t tmpfs none "\$root/tmp"
  mkdir -p "\$root\$node"
  mount --bind "\$node" "\$root\$node"
  mount --rbind /proc "\$root/proc"
  mount --rbind /dev "\$root/dev"
  exec chroot "\$root" /usr/lib/rabbitmq/bin/rabbitmq-server
' "$folder/root"
LAUNCHER
chmod +x "$folder/rabbitmq-server"
chroot "$folder/root" dpkg-query -W rabbitmq-server
