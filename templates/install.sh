#!/bin/sh
# Puts the agent of the lab server below on this GPU server, or renews the one that is here.
# To be run in the folder where experiments run:
#
#   sh install.sh CODE [OPTION]...   enroll this machine and start the agent in the background
#   sh install.sh                    renew an agent that is here; its jobs go on
#
#   --service    have the machine keep the agent running instead (systemd, cron)
#   any other option is the agent's own: --workdir, --gpus, --host-id (all: lab-agent --help)
#
# It needs CPython 3.10 or newer, and neither root nor the internet. LAB_PYTHON names a Python,
# LAB_AGENT_DIR a folder for the agent's two files. What it fetches is known by its SHA-256.
set -eu

server={{ server|safe }}
version={{ version|safe }}
sha256={{ sha256|safe }}
ca_sha256={{ ca_sha256|safe }}
place={{ place|safe }}

say() { printf 'lab: %s\n' "$*" >&2; }

fail() { say "$*"; exit 1; }

# Pythons of this machine, one a line, the likeliest first.
pythons() {
  [ -z "${LAB_PYTHON:-}" ] || printf '%s\n' "$LAB_PYTHON"
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    command -v "$name" || :
  done
  for root in "${CONDA_PREFIX:-}" "$HOME"/miniconda3 "$HOME"/anaconda3 "$HOME"/miniforge3 \
    "$HOME"/mambaforge "$HOME"/micromamba "$HOME"/.conda /opt/conda /opt/miniconda3 \
    /opt/anaconda3 /opt/miniforge3; do
    [ -n "$root" ] || continue
    for found in "$root"/bin/python3 "$root"/envs/*/bin/python3; do printf '%s\n' "$found"; done
  done
  for found in "$HOME"/.local/share/uv/python/*/bin/python3 "$HOME"/.pyenv/versions/*/bin/python3; do
    printf '%s\n' "$found"
  done
}

suits() {
  "$1" -I -c 'import ctypes, sqlite3, ssl, sys
sys.exit(sys.version_info < (3, 10) or sys.implementation.name != "cpython")' </dev/null >/dev/null 2>&1
}

first_python() {
  pythons | while IFS= read -r found; do
    if suits "$found"; then
      printf '%s\n' "$found"
      break
    fi
  done
}

no_python() {
  say "there is no CPython 3.10 or newer on this machine, in PATH or in conda's folders. Either"
  say "  name one:                    export LAB_PYTHON=/path/to/python3"
  say "  or make one, without root:   conda create -y -p ~/miniconda3/envs/lab python=3.12"
  say "                               uv python install 3.12"
  say "  or have it installed:        sudo apt install python3"
  fail "then type the same line again"
}

fetch() {
  "$python" -I - "$server/agent.pyz" "$1" "$sha256" <<'PYTHON'
import hashlib, os, ssl, sys, urllib.request

url, target, wanted = sys.argv[1:]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


if os.path.exists(target) and sha256(open(target, "rb").read()) == wanted:
    sys.exit()
anyone = ssl.create_default_context()  # what comes is known by its hash
anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
try:
    with urllib.request.urlopen(url, timeout=60, context=anyone) as answer:
        content = answer.read()
except OSError as exc:
    sys.exit("lab: %s cannot be fetched: %s" % (url, exc))
if sha256(content) != wanted:
    sys.exit("lab: %s is not the file that belongs to this line: copy the line from the site again" % url)
part = "%s.%d" % (target, os.getpid())
with open(part, "wb") as file:
    file.write(content)
os.replace(part, target)
PYTHON
}

quoted() { printf '%s' "$1" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/"; }

# A command `lab-agent` that is this agent, for people to type.
write_command() {
  printf '#!/bin/sh\nexec %s %s "$@"\n' "$(quoted "$python")" "$(quoted "$1/agent.pyz")" >"$1/lab-agent"
  chmod 755 "$1/lab-agent"
}

main() {
  [ -n "${HOME:-}" ] || HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
  code= service=
  case "${1:-}" in '' | -*) ;; *) code=$1; shift ;; esac
  left=$#
  while [ "$left" -gt 0 ]; do
    if [ "$1" = --service ]; then service=yes; else set -- "$@" "$1"; fi
    shift
    left=$((left - 1))
  done

  python=$(first_python)
  [ -n "$python" ] || no_python
  if [ "$(id -u)" = 0 ]; then folder=/usr/local/lib/lab-agent; else folder=$HOME/.local/share/lab-agent; fi
  folder=${LAB_AGENT_DIR:-$folder}/$place
  mask=$(umask)
  umask 022  # of these files alone: a service may run as another user
  mkdir -p "$folder" || fail "$folder cannot be made: export LAB_AGENT_DIR=..., then the same line again"
  fetch "$folder/agent.pyz"
  write_command "$folder"
  umask "$mask"
  say "agent $version, SHA-256 $sha256"
  say "by $python; type $folder/lab-agent status"

  set -- --server "$server" "$@"
  [ -z "$ca_sha256" ] || set -- "$@" --ca-sha256 "$ca_sha256"
  [ -z "$code" ] || export LAB_ENROLL_CODE="$code"
  running=0
  "$folder/lab-agent" status "$@" >/dev/null 2>&1 </dev/null || running=$?
  if [ -n "$service" ]; then
    "$folder/lab-agent" install-service "$@" </dev/null
  elif [ -z "$code" ] || [ "$running" = 0 ] || [ "$running" = 4 ]; then
    "$folder/lab-agent" restart "$@" </dev/null
  else
    "$folder/lab-agent" "$@" --daemon </dev/null
  fi
}

main "$@"  # the last line: of a script that did not arrive whole nothing is run
