#!/usr/bin/env bash
# What the tests need beside Python packages: an S3 server (Ceph's radosgw with a private monitor and OSD).
set -euo pipefail

command -v radosgw ceph-mon ceph-osd radosgw-admin ceph >/dev/null && exit 0
if command -v apt-get >/dev/null; then
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  $sudo apt-get update -q
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends \
    radosgw ceph-mon ceph-osd ceph-common
elif [ -n "${COREPRESS_TEST_S3:-}" ]; then
  echo "tests use the S3 server at $COREPRESS_TEST_S3"
else
  echo "missing: an S3 server. Ceph has no package for this system: start any S3 server, with Docker" >&2
  echo "for example, and set COREPRESS_TEST_S3 to its address and AWS_ACCESS_KEY_ID," >&2
  echo "AWS_SECRET_ACCESS_KEY to its credentials." >&2
  exit 1
fi
