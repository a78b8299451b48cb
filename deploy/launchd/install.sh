#!/bin/bash
# Makes this Mac a worker of a fleet: a LaunchAgent of the user who runs this. Needs no administrator.
#
#   install.sh [--python PYTHON] [STAGE...]     the stages: compile and convert, unless others are given
#   install.sh --uninstall [--purge]            --purge: settings, cache and log go, too
#
# Run it again after an update, with new settings or with other stages. It works with the bash 3.2 of macOS.
set -euo pipefail

label=org.corepress.worker
root=$(cd "$(dirname "$0")/../.." && pwd)
folder="$HOME/Library/Application Support/corepress"
settings="$folder/environment"
agents="$HOME/Library/LaunchAgents"
plist="$agents/$label.plist"
log="$HOME/Library/Logs/corepress-worker.log"
domain="gui/$(id -u)"

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$0"
}

fail() {
  echo "error: $1" >&2
  exit 1
}

is_loaded() {
  launchctl print "$domain/$label" >/dev/null 2>&1
}

unload() {
  is_loaded || return 0
  launchctl bootout "$domain/$label" || true
  # a worker that hands back what it is at takes up to a minute to leave
  for _ in $(seq 90); do
    is_loaded || return 0
    sleep 1
  done
  fail "launchd still runs $label; try again"
}

uninstall() {
  unload
  rm -f "$plist"
  if [ "$1" = purge ]; then
    rm -rf "$folder" "$log"
    echo "the worker is gone, with its settings, cache and log"
  else
    rm -rf "$folder"/venv* "$folder/run-worker"
    echo "the worker is gone; its settings and cache are still in $folder"
  fi
}

# The first Python on this Mac that is new enough.
find_python() {
  local candidate
  for candidate in python3.12 python3.11 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed; uv and conda install one without an administrator"
}

# A text as XML, for the right-hand side of sed's s|||.
quoted() {
  printf '%s' "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' | sed -e 's/[\\&|]/\\&/g'
}

python=""
action=install
extent=keep
stages=()
while [ $# -gt 0 ]; do
  case "$1" in
    --python)
      python=${2:?"--python needs a path"}
      shift
      ;;
    --uninstall) action=uninstall ;;
    --purge) extent=purge ;;
    -h | --help)
      usage
      exit 0
      ;;
    *[!a-z]*) fail "there is no option or stage $1; see --help" ;;
    *) stages+=("$1") ;;
  esac
  shift
done

[ -z "${SUDO_USER:-}" ] || fail "run this without sudo, as the user whose worker it is"
command -v launchctl >/dev/null || fail "there is no launchctl: this is for macOS"
if [ "$action" = uninstall ]; then
  uninstall "$extent"
  exit 0
fi
[ ${#stages[@]} -gt 0 ] || stages=(compile convert)
[ -n "$python" ] || python=$(find_python)

umask 077
mkdir -p "$folder" "$agents" "$(dirname "$log")"

# a worker that is there goes on until its successor is complete
venv="$folder/venv-$(date +%Y%m%d-%H%M%S)-$$"
trap 'rm -rf "$venv"' EXIT
echo "installing Corepress and what it needs into $folder"
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps)
"${pip[@]}" --requirement "$root/services/compile/requirements.lock"
PIP_CONSTRAINT="$root/requirements.lock" PIP_BUILD_CONSTRAINT="$root/requirements.lock" "${pip[@]}" "$root"

[ -e "$settings" ] || cp "$root/deploy/launchd/environment.example" "$settings"
chmod 600 "$settings"
sed -e "s|@LABEL@|$(quoted "$label")|" -e "s|@FOLDER@|$(quoted "$folder")|" -e "s|@LOG@|$(quoted "$log")|" \
  "$root/deploy/launchd/corepress-worker.plist" >"$plist.new"
if command -v plutil >/dev/null; then
  plutil -lint -s "$plist.new"
fi

unload
mv "$plist.new" "$plist"
# launchd reads no file of settings, and a plist is no place for passwords
cat >"$folder/run-worker" <<EOF
#!/bin/bash
# Made by install.sh: the worker, with its settings.
set -euo pipefail
cd "\$(dirname "\$0")"
set -a
. ./environment
exec "./$(basename "$venv")/bin/python" -m corepress worker ${stages[*]}
EOF
chmod 700 "$folder/run-worker"
trap - EXIT
for other in "$folder"/venv-*; do
  [ "$other" = "$venv" ] || rm -rf "$other"
done

# shellcheck source=/dev/null
if ! (. "$settings" && [ -n "${COREPRESS_BUS:-}" ] && [ -n "${COREPRESS_STORE:-}" ]); then
  echo "not started yet: name the fleet's broker and store in $settings, then run this again"
  exit 0
fi
launchctl bootstrap "$domain" "$plist"
echo "the worker runs (${stages[*]}); its log is $log"
