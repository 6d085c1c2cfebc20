#!/bin/bash
# Builds a release of the commit that is checked out:
#
#   deploy/release.sh [DIRECTORY]        the files, into dist/
#   deploy/release.sh image [DIRECTORY]  container images of the programs in DIRECTORY
#   deploy/release.sh check              built twice from fresh clones, compared, tried
#
# The images are called $IMAGE, with the version as the tag: IMAGE=registry.example.com/ssed.
# Without it they are ssed:VERSION, as deploy/kubernetes has it.
#
# The same commit gives the same bytes wherever it is built with the same Go: no path, time,
# user, umask or host gets into them.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOTOOLCHAIN=auto LC_ALL=C TZ=UTC

readonly nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
readonly sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
readonly architectures="amd64 arm64"

main() {
	case "${1:-}" in
	check) check ;;
	image) images "${2:-dist}" ;;
	*) release "${1:-dist}" ;;
	esac
}

# release fills a directory.
release() {
	local out=$1 arch
	require_commit
	require_release "$out"
	VERSION=$(version)
	export SOURCE_DATE_EPOCH VERSION
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
	umask 022
	rm -rf "$out"
	mkdir -p "$out"
	for arch in $architectures; do
		work=$(mktemp -d)
		trap 'rm -rf "$work"' EXIT
		build "$arch" "$work"
		archive "$arch" "$work" "$out"
		package "$arch" "$work" "$out"
		components "$arch" "$work" "$out"
		rm -rf "$work"
	done
	sums "$out"
}

sums() {
	(cd "$1" && sha256sum -- ssed* >SHA256SUMS)
	cat "$1/SHA256SUMS"
}

# images makes an image for each program of a release, with the same bytes as in its archive,
# and starts that of this machine. It takes buildah, which needs no daemon; the isolation
# "chroot" needs no right to make namespaces. The certificates are those of this machine: the
# image has the same bytes where its package ca-certificates has the same version.
images() {
	local out=$1 arch archive name=${IMAGE:-ssed}
	if ! [[ $name =~ ^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$ ]]; then
		echo "release: IMAGE=$name is no name of an image, such as registry.example.com/ssed; the version becomes the tag" >&2
		exit 1
	fi
	export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	for arch in $architectures; do
		archive=$(echo "$out"/ssed-*-linux-"$arch".tar.gz)
		[ -e "$archive" ] || {
			echo "release: no programs in $out: make release comes first" >&2
			exit 1
		}
		tar -xzf "$archive" -C "$work"
		image "$(basename "$archive" .tar.gz)" "$arch" "$out"
	done
	joined "$out"
	start_image "$out/ssed-$version.oci.tar"
	sums "$out"
	echo "$name:$tag@$digest"
}

# image makes one: the program, certificates of public authorities, nothing else. Its tag is
# the version with - for +.
image() {
	local file=$1 arch=$2 out=$3 ctr
	version=${file#ssed-}
	version=${version%-linux-*}
	tag=${version//+/-}
	ctr=$(buildah from --arch "$arch" scratch)
	buildah copy -q --chmod 0755 "$ctr" "$work/$file/ssed" /ssed >/dev/null
	buildah copy -q --chmod 0644 "$ctr" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ >/dev/null
	buildah config --os linux --arch "$arch" --user 65532:65532 --entrypoint '["/ssed"]' --port 8080 --port 9090 \
		--stop-signal SIGTERM --label "org.opencontainers.image.version=$version" \
		--label org.opencontainers.image.title=ssed --label 'org.opencontainers.image.licenses=MIT OR Apache-2.0' "$ctr"
	SOURCE_DATE_EPOCH=$(stat -c %Y "$work/$file/ssed")
	buildah commit -q --format oci --timestamp "$SOURCE_DATE_EPOCH" --rm "$ctr" "oci:$work/$arch:$name:$tag" 2>/dev/null >&2
	pack "$work/$arch" . >"$out/$file.oci.tar"
}

# joined puts the images of all architectures under one digest, by an index of the OCI image
# specification, and names it for Kubernetes. The digest stays when the archive is pushed.
joined() {
	local out=$1 arch manifest list='' index
	mkdir -p "$work/all/blobs/sha256"
	for arch in $architectures; do
		cp "$work/$arch/oci-layout" "$work/all"
		cp "$work/$arch"/blobs/sha256/* "$work/all/blobs/sha256"
		manifest=$(grep -oE 'sha256:[0-9a-f]{64}' "$work/$arch/index.json")
		list+=,$(descriptor manifest "$manifest")",\"platform\":{\"architecture\":\"$arch\",\"os\":\"linux\"}}"
	done
	index="{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[${list#,}]}"
	digest=sha256:$(printf %s "$index" | sha256sum | cut -d' ' -f1)
	printf %s "$index" >"$work/all/blobs/sha256/${digest#sha256:}"
	printf %s "{\"schemaVersion\":2,\"manifests\":[$(descriptor index "$digest"),\"annotations\":{\"org.opencontainers.image.ref.name\":\"$name:$tag\"}}]}" >"$work/all/index.json"
	pack "$work/all" . >"$out/ssed-$version.oci.tar"

	mkdir -p "$out/kubernetes"
	cat >"$out/kubernetes/kustomization.yaml" <<-EOF
		# deploy/kubernetes with the image of this release, by its digest:
		#
		#   kubectl apply -k $out/kubernetes
		apiVersion: kustomize.config.k8s.io/v1beta1
		kind: Kustomization
		resources: [$(realpath --relative-to="$out/kubernetes" deploy/kubernetes)]
		images:
		  - {name: ssed, newName: $name, digest: "$digest"}
	EOF
}

# descriptor begins that of a blob: what it is and its digest.
descriptor() {
	printf '{"mediaType":"application/vnd.oci.image.%s.v1+json","digest":"%s","size":%d' "$1" "$2" "$(stat -c %s "$work/all/blobs/sha256/${2#sha256:}")"
}

# start_image runs what is in an image: the version, then a gateway that has to be ready.
start_image() {
	local ctr address said=''
	ctr=$(buildah from "oci-archive:$1")
	buildah run "$ctr" -- /ssed version
	# A group of its own, as buildah does not pass signals on.
	setsid buildah run "$ctr" -- /ssed --listen 127.0.0.1:0 --drain 1s >"$work/image.log" 2>&1 &
	for _ in $(seq 100); do
		address=$(sed -n 's/.*listener=streams addr=//p' "$work/image.log")
		if [ -n "$address" ] && said=$(curl -fsS "http://$address/ready" 2>&1); then break; fi
		sleep 0.1
	done
	kill -TERM -- -$!
	wait $! || true
	buildah rm "$ctr" >/dev/null
	[ "$said" = ready ] || {
		echo "release: the program of $1 does not answer: $said" >&2
		cat "$work/image.log" >&2
		exit 1
	}
	echo "$1: it runs and is ready"
}

# require_commit refuses a tree with changes: nobody could build that again. Files that
# git does not know count: the compiler takes them as well.
require_commit() {
	if [ -n "$(git status --porcelain)" ]; then
		echo 'release: there are changes that are not committed' >&2
		exit 1
	fi
}

# require_release refuses to replace a directory that has something else in it.
require_release() {
	if [ -e "$1" ] && [ ! -e "$1/SHA256SUMS" ] && [ -n "$(ls -A "$1")" ]; then
		echo "release: $1 is not empty and no release: remove it, or name another directory" >&2
		exit 1
	fi
}

# version is the tag without its v, or 0.0.0 and the commit. With a fixed length of the
# hash, because git makes it longer where a repository has more objects.
version() {
	local tag
	if tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null); then
		echo "${tag#v}"
	else
		echo "0.0.0+git$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd).$(git rev-parse HEAD | cut -c1-12)"
	fi
}

# build makes a static program. The commit is in it ("go version -m ssed"). A cache of its
# own, by BUILD_CACHE, makes it compile everything anew.
build() {
	GOCACHE=${BUILD_CACHE:-$(go env GOCACHE)} CGO_ENABLED=0 GOOS=linux GOARCH=$1 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=true \
		-ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$2/ssed" ./cmd/ssed
}

archive() {
	local name=ssed-$VERSION-linux-$1
	local dir=$2/$name
	mkdir -p "$dir"
	cp "$2/ssed" "$dir"
	git archive HEAD README.md CHANGELOG.md SECURITY.md ARCHITECTURE.md LICENSE-MIT LICENSE-APACHE \
		docs deploy clients | tar -x -C "$dir"
	pack "$2" "$name" | gzip -n -9 >"$3/$name.tar.gz"
}

# pack writes what is in a directory as a tar archive, with no trace of when it was made and
# by whom.
pack() {
	tar --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
		--mode=u=rwX,go=rX -C "$1" -c "$2"
}

package() {
	gzip -n -9 -c deploy/ssed.1 >"$2/ssed.1.gz"
	gzip -n -9 -c CHANGELOG.md >"$2/changelog.gz"
	{
		printf 'ssed is under the MIT licence or the Apache License 2.0, at your option.\n\n'
		cat LICENSE-MIT
		printf '\nThe Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.\n'
	} >"$2/copyright"
	STAGE=$2 DEB_ARCH=$1 DEB_VERSION=$VERSION go run $nfpm package --config deploy/deb/nfpm.yaml --packager deb \
		--target "$3/ssed_${VERSION}_$1.deb" >/dev/null
}

# components writes which modules are in the program, read from the program.
components() {
	go run $sbom bin -json -noserial -notimestamp -version "v$VERSION" \
		-output "$3/ssed-$VERSION-linux-$1.cdx.json" "$2/ssed" 2>"$2/sbom.log" || {
		cat "$2/sbom.log" >&2
		return 1
	}
}

# check builds in two directories that differ in all that must not matter, the second
# time compiling everything, and tries what came out.
check() {
	require_commit
	top=$(mktemp -d)
	trap 'rm -rf "$top"' EXIT
	local second="$top/another/place/with a space"
	git clone -q . "$top/a"
	git clone -q . "$second"
	echo 'building twice, once from nothing: a few minutes'
	(umask 077 && "$top/a/deploy/release.sh" "$top/one" >/dev/null)
	BUILD_CACHE=$top/cache "$second/deploy/release.sh" "$top/two" >/dev/null
	diff "$top/one/SHA256SUMS" "$top/two/SHA256SUMS"
	(cd "$top/two" && sha256sum --quiet -c SHA256SUMS)
	try "$top/one" "$top/root" "$(git -C "$top/a" rev-parse HEAD)"
	cat "$top/one/SHA256SUMS"
	echo 'release-check: the same twice, and it runs'
}

# try unpacks what is for this machine and runs it in an empty root, where a program that
# needs a library or a file would not start; and looks into the others.
try() {
	local files=$1 root=$2 commit=$3 arch deb version
	arch=$(go env GOARCH)
	deb=$(echo "$files"/ssed_*_"$arch".deb)
	version=$(dpkg-deb -f "$deb" Version)
	dpkg-deb -x "$deb" "$root"
	expect "ssed $version " "$root/usr/bin/ssed" --version
	expect 'drain: 10s' "$root/usr/bin/ssed" config --config "$root/etc/ssed/ssed.yaml"
	if [ "$(id -u)" -eq 0 ]; then
		expect "ssed $version " chroot "$root" /usr/bin/ssed --version
	fi
	for arch in $architectures; do
		tar -xzOf "$files/ssed-$version-linux-$arch.tar.gz" "ssed-$version-linux-$arch/ssed" >"$root/program"
		for setting in CGO_ENABLED=0 "GOARCH=$arch" "vcs.revision=$commit" vcs.modified=false; do
			expect "$setting" go version -m "$root/program"
		done
		expect '"name": "github.com/redis/rueidis"' cat "$files/ssed-$version-linux-$arch.cdx.json"
		dpkg-deb --fsys-tarfile "$files/ssed_${version}_$arch.deb" | tar -xO ./usr/bin/ssed | cmp - "$root/program"
	done
}

# expect runs a command that must print a text.
expect() {
	local text=$1 said
	shift
	said=$("$@") || {
		echo "release-check: $* failed" >&2
		return 1
	}
	if [[ $said != *"$text"* ]]; then
		echo "release-check: $* does not say $text" >&2
		return 1
	fi
}

main "$@"
