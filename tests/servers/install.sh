#!/usr/bin/env bash
# What the tests need beside Python packages: a message broker (RabbitMQ) and an S3 server (Ceph's radosgw with a
# private monitor and OSD). The tests start their own; no service of the system is started.
set -euo pipefail

missing=()
if [ -z "${COREPRESS_TEST_BUS:-}" ]; then
  [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
else
  echo "tests use the broker at $COREPRESS_TEST_BUS"
fi
if [ -z "${COREPRESS_TEST_S3:-}" ]; then
  command -v radosgw ceph-mon ceph-osd radosgw-admin ceph >/dev/null || missing+=(radosgw ceph-mon ceph-osd ceph-common)
else
  echo "tests use the S3 server at $COREPRESS_TEST_S3"
fi
[ "$(uname)" != Linux ] || [ -x /sbin/mkfs.xfs ] || missing+=(xfsprogs)  # a file system with reflinks
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]}. Start an S3 server of any kind, with Docker for example, and set" >&2
  echo "COREPRESS_TEST_S3 to its address and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY to its credentials;" >&2
  echo "likewise a RabbitMQ broker of its own for the tests, and COREPRESS_TEST_BUS to its amqp:// address." >&2
  exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then  # Debian starts what it installs, unless this says no
  printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
  $sudo chmod +x $policy
  trap '$sudo rm -f $policy' EXIT
fi
$sudo apt-get update -q
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}"
