#!/bin/sh
# In place of Flannel's CNI plugin: calls `bridge` with what that one makes of the node's subnet file.
set -eu
. /run/flannel/subnet.env
cat > /dev/null
exec /opt/cni/bin/bridge <<CONFIG
{"cniVersion": "0.3.1", "name": "cbr0", "type": "bridge", "mtu": $FLANNEL_MTU, "hairpinMode": true, "ipMasq": false,
 "isGateway": true, "isDefaultGateway": true,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "${FLANNEL_SUBNET%.1/*}.0/${FLANNEL_SUBNET#*/}"}]], "routes": [{"dst": "$FLANNEL_NETWORK"}]}}
CONFIG
