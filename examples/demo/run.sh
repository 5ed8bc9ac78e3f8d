#!/usr/bin/env bash
# The demonstration behind `make demo`: slipway's main job on one machine, without internet and without a daemon.
#
# A registry starts on loopback. Two base images are made of what this machine has (busybox, Go) and pushed there. A git
# repository with a small web application and a pipeline file is made of app/, and the pipeline runs on it twice: the
# second time there is nothing to do. Then the image is pulled back, started in the sandbox, and asked over HTTP.
# Everything happens in a temporary folder, which is removed at the end.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
slipway=${SLIPWAY:-$(command -v slipway)}
goroot=$(go env GOROOT)

work=$(mktemp -d)
export SLIPWAY_HOME=$work/home DOCKER_CONFIG=$work/docker SLIPWAY_CONFIG=$work/none.yaml
pids=()

cleanup() {
	status=$?
	trap - EXIT
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do # the newest first: it may still talk to an older one
		kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null || true
	done
	rm -rf "$work"
	((status == 0)) || say "The demonstration failed with status $status."
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
[[ -t 2 && -z ${NO_COLOR-} ]] || say() { printf '\n%s\n' "$*" >&2; }

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

# tell prints a command as a person would type it; show also runs it.
tell() {
	local words="$*"
	words=${words//$slipway/slipway}
	printf '$ %s\n' "${words//$work/\$TMP}" >&2
}
show() {
	tell "$@"
	"$@"
}

# await COMMAND…: runs COMMAND until it succeeds, for ten seconds at most.
await() {
	for ((i = 0; i < 200; i++)); do
		if "$@" 2>/dev/null; then return; fi
		sleep 0.05
	done
	say "Waited in vain for: $*"
	return 1
}

http() { # http METHOD PATH [BODY]: one request to the application, without curl, which a small machine may lack
	local body=${3-} reply
	exec 3<>"/dev/tcp/127.0.0.1/$app_port" || return
	printf '%s %s HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s' \
		"$1" "$2" "${#body}" "$body" >&3
	reply=$(cat <&3)
	exec 3>&-
	printf '%s\n' "$reply"
}

if [[ $(id -u) != 0 ]]; then
	say "Building images needs root: sudo make demo"
	exit 1
fi
begun=$(now)

say "1. A registry on loopback"
"$slipway" registry serve --addr 127.0.0.1:0 --dir "$work/registry" 2>"$work/registry.log" &
pids+=($!)
await grep -q 'listening on' "$work/registry.log"
registry=$(sed -n 's/.*listening on //p' "$work/registry.log")
echo "slipway registry serve: $registry" >&2

say "2. Base images, made of this machine's busybox and Go"
step=$(now)
mkdir -p "$work"/{base,golang,rootfs/{bin,etc,sbin,usr/bin,usr/sbin,root,tmp}}
cp /bin/busybox "$work/rootfs/bin/"
while read -r applet; do
	[[ $applet == bin/busybox ]] || ln -s /bin/busybox "$work/rootfs/$applet"
done < <(/bin/busybox --list-full)
echo 'root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false' >"$work/rootfs/etc/passwd"
chmod 1777 "$work/rootfs/tmp"
tar -C "$work/rootfs" --numeric-owner --owner=0 --group=0 -cf "$work/base/rootfs.tar" .
# What "go build" and "go test" need: the compiler and the standard library without its own tests.
(cd "$goroot" && tar --numeric-owner --owner=0 --group=0 --exclude='*_test.go' --exclude=testdata --exclude=src/cmd \
	-cf "$work/golang/goroot.tar" bin/go pkg/include pkg/tool/*/{asm,compile,link,vet} src VERSION go.env)
show "$slipway" build --progress quiet -f "$here/base/Dockerfile" -t "$registry/base/busybox:latest" --push "$work/base"
show "$slipway" build --progress quiet -f "$here/golang/Dockerfile" --build-arg "BASE=$registry/base/busybox:latest" \
	-t "$registry/base/golang:1.26" --push "$work/golang"
bases=$(since "$step")

say "3. A repository with a web application, a Dockerfile and a pipeline"
cp -r "$here/app" "$work/guestbook"
cd "$work/guestbook"
git init -q -b main
git add .
git -c user.name=demo -c user.email=demo@example.com commit -q -m "guestbook: sign and list"
git log --oneline --stat >&2
sed 's/^/    /' Dockerfile >&2

# The pipeline and the Dockerfile name registry.example.com, as they would name a company's registry.
run() { show "$slipway" run --progress plain --map-registry "registry.example.com=$registry" pipeline.yaml; }

say "4. The pipeline runs: test, build, push"
step=$(now)
run 2> >(tee "$work/first.log" >&2) | tee "$work/first.table"
first=$(since "$step")

say "5. The same commit again: nothing to do"
step=$(now)
run 2> >(tee "$work/second.log" >&2) | tee "$work/second.table"
second=$(since "$step")

say "6. The image, pulled back and started in the sandbox"
image=$registry/demo/guestbook:$(git rev-parse --short=7 HEAD)
app_port=$((20000 + RANDOM % 10000))
start=("$slipway" image run --progress quiet --env "ADDR=127.0.0.1:$app_port" "$image")
tell "${start[@]}"
step=$(now)
SLIPWAY_HOME=$work/elsewhere "${start[@]}" >"$work/app.log" 2>&1 & # a home of its own: nothing of the image is there
pids+=($!)
await http GET /healthz >/dev/null || { cat "$work/app.log" >&2 && exit 1; }
started=$(since "$step")
http POST /names 'name=make+demo' | sed -n 1p
http GET / | tee "$work/page" | sed -n 's/.*\(<ul>.*<\/ul>\).*/\1/p'
grep -q '<li>make demo</li>' "$work/page"

say "Where the time went"
# count DONE|CACHED LOG: how many instructions ended so; fetching and pushing have no brackets with a colon.
count() {
	awk -v how="$1" '
		/^#[0-9]+ (CACHED )?\[[^]]*: / { instruction[$1] = 1 }
		$2 == how && instruction[$1] { n++ }
		END { print n + 0 }' "$work/$2.log"
}
printf '%-36s %8s %8s %8s\n' '' seconds ran cached
printf '%-36s %7ss %8s %8s\n' 'two base images, built and pushed' "$bases" '' ''
printf '%-36s %7ss %8s %8s\n' 'pipeline, first run' "$first" "$(count DONE first)" "$(count CACHED first)"
printf '%-36s %7ss %8s %8s\n' 'pipeline, second run' "$second" "$(count DONE second)" "$(count CACHED second)"
printf '%-36s %7ss\n' 'image pulled, started and answering' "$started"
printf '%-36s %7ss\n' 'all of it' "$(since "$begun")"
echo
echo "The first run's steps; the last of them waits for the others:"
awk '
	/^#[0-9]+ (CACHED )?\[/ { name = $0; sub(/^#[0-9]+ \[[^] ]*:? ?/, "[", name); sub(/^\[\] /, "", name); names[$1] = name }
	$2 == "DONE" { printf "%8s  %s\n", $3, names[$1] }' "$work/first.log"
