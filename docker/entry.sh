#!/bin/sh
# Starts pcscf as the user of the image with the two capabilities it needs, and names the one that the container lacks.
set -eu
case "${1:-}" in
  run | ue | capture | forget)
    bounding=0x$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)
    for each in 12:NET_ADMIN 13:NET_RAW; do
      if [ $((bounding >> ${each%%:*} & 1)) = 0 ]; then
        name=${each#*:}
        echo "pcscf: the container lacks CAP_$name; start it with --cap-add $name (cap_add in a compose file)" >&2
        exit 1
      fi
    done
    if ! both=$(with-capabilities --inh-caps +net_admin,+net_raw --ambient-caps +net_admin,+net_raw true 2>&1); then
      echo "pcscf: CAP_NET_ADMIN and CAP_NET_RAW cannot be passed on ($both); no-new-privileges forbids it" >&2
      exit 1
    fi
    exec with-capabilities --inh-caps +net_admin,+net_raw --ambient-caps +net_admin,+net_raw pcscf "$@"
    ;;
esac
exec pcscf "$@"
