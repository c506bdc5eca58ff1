#!/bin/sh
# `make docker-test`: builds the image and runs the containerised tests with the Docker engine that is running; where none
# runs and we are root, with one of our own in a private data directory and network namespace, which is gone afterwards.
# Where no registry is in reach the base image is a debootstrap of this Debian's release.
set -eu
cd "$(dirname "$0")/.."
BASE=${BASE:-debian:bookworm-slim}
folder=$(mktemp -d /var/tmp/pcscf-docker.XXXXXX)
namespace=
daemon=
export COMPOSE_PROJECT_NAME=pcscf-test PCSCF_IMAGE=pcscf:test DOCKER_BUILDKIT=0

say() { echo "== $*" >&2; }
fail() { echo "docker-test: $*" >&2; exit 1; }

if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
else
  compose() { docker-compose "$@"; }
fi
stack() { compose -f docker/compose.yml -f docker/compose.test.yml "$@"; }

clean() {
  status=$?
  trap - EXIT INT TERM
  stack down -v --remove-orphans >/dev/null 2>&1 || :
  if [ -n "$daemon" ]; then
    kill "$(cat "$folder/docker.pid")" 2>/dev/null || :
    wait "$daemon" 2>/dev/null || :
  fi
  [ -z "$namespace" ] || ip netns delete "$namespace" 2>/dev/null || :
  rm -rf "$folder" docker/wheels/*.whl
  exit $status
}
trap clean EXIT
trap 'exit 130' INT TERM

if ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || fail "no Docker engine answers; start one, or run this as root, and it starts its own"
  command -v dockerd >/dev/null || fail "no Docker engine answers and there is none to start: apt-get install docker.io"
  say "starting a Docker engine of our own in $folder"
  namespace=pcscf-docker-$$
  ip netns add $namespace
  ip -n $namespace link set lo up
  # Not `ip netns exec`: it would hide the cgroups.
  nsenter --net=/run/netns/$namespace dockerd --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/docker.pid" --host "unix://$folder/docker.sock" --storage-driver "${STORAGE_DRIVER:-vfs}" \
    --exec-opt native.cgroupdriver=cgroupfs --bip 10.99.0.1/24 > "$folder/dockerd.log" 2>&1 &
  daemon=$!
  export DOCKER_HOST="unix://$folder/docker.sock"
  for _ in $(seq 60); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
  docker info >/dev/null 2>&1 || fail "the engine did not start: $(tail -3 "$folder/dockerd.log")"
fi

for each in "-f docker/compose.yml" "-f docker/compose.yml -f docker/compose.test.yml" \
            "-f docker/compose.yml -f docker/compose.observe.yml"; do
  # shellcheck disable=SC2086
  compose $each config -q || fail "compose does not accept $each"
done

if ! docker image inspect "$BASE" >/dev/null 2>&1 && ! docker pull -q "$BASE" >/dev/null 2>&1; then
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  say "no registry is in reach: the base image is a debootstrap of $release (a minute or two)"
  command -v debootstrap >/dev/null || fail "apt-get install debootstrap"
  packages=python3,python3-venv,iproute2,nftables,libcap2-bin,util-linux
  debootstrap --variant=minbase --include=$packages "$release" "$folder/root" "${MIRROR:-}" > "$folder/debootstrap.log" \
    2>&1 || fail "debootstrap: $(tail -3 "$folder/debootstrap.log")"
  rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/usr/share/doc/*
  BASE=pcscf-base:$release
  tar -C "$folder/root" -c . | docker import - "$BASE" >/dev/null
  rm -rf "$folder/root"
fi

say "building the image on $BASE"
rm -f docker/wheels/*.whl
"${PIP:-.venv/bin/pip}" wheel -q --disable-pip-version-check -w docker/wheels . 2> "$folder/wheels.log" \
  || fail "the wheels could not be fetched: $(tail -3 "$folder/wheels.log")"
docker build --build-arg BASE="$BASE" -f docker/Dockerfile -t $PCSCF_IMAGE . > "$folder/build.log" 2>&1 \
  || fail "the image was not built: $(tail -5 "$folder/build.log")"
docker run --rm --entrypoint sh $PCSCF_IMAGE -c '! command -v gcc && ! command -v pip && [ "$(id -un)" = pcscf ]' \
  >/dev/null || fail "the image has build tools, or runs as root"

if [ "$(stat -c %a /dev/net/tun)" != 666 ]; then  # distributions ship it open; a copy of the node is enough
  mknod "$folder/tun" c 10 200
  chmod 666 "$folder/tun"
  export PCSCF_TUN="$folder/tun"
fi

for name in NET_ADMIN NET_RAW; do
  others=$(echo NET_ADMIN NET_RAW | sed "s/$name//")
  # shellcheck disable=SC2086
  if said=$(docker run --rm --cap-drop ALL --cap-add $others $PCSCF_IMAGE 2>&1); then
    fail "it started without CAP_$name"
  fi
  case $said in *"lacks CAP_$name;"*) say "without CAP_$name: $said" ;; *) fail "CAP_$name is not named: $said" ;; esac
done

scenarios() {
  stack up --no-build --abort-on-container-exit --exit-code-from tests > "$folder/scenarios.log" 2>&1 &
  running=$!
  for _ in $(seq 120); do  # while it runs, look at how the containers were made
    ids=$(stack ps -q 2>/dev/null || :)
    [ "$(echo "$ids" | wc -w)" -ge 3 ] && break
    sleep 0.5
  done
  # shellcheck disable=SC2086
  made=$(docker inspect -f '{{.Name}} privileged={{.HostConfig.Privileged}} read-only={{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapAdd}}' $ids)
  if wait $running; then status=0; else status=$?; fi
  sed -n 's/^.*tests[-_]1 *|[^ ]* //p' "$folder/scenarios.log" | grep . || tail -40 "$folder/scenarios.log"
  echo "$made"
  case $made in *privileged=true* | *read-only=false*) fail "a container is privileged, or its root can be written" ;; esac
  [ $status = 0 ] || fail "scenarios do not hold (status $status)"
  stack down -v >/dev/null 2>&1
}

say "scenarios, the core on IPv4"
scenarios
say "scenarios, the core on IPv6"
export CORE=fd00:46::2 HOP="[fd00:46::2]"
scenarios
