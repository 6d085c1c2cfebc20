# Runs a snippet in bash and prints what it shows, a line of JSON each.
#   bash harness.sh SNIPPET URL
url=$2

show() { printf '{"event":"%s","id":"%s","base64":"%s"}\n' "$1" "$2" "$(printf %s "$3" | base64 -w0)"; }
lost() { printf '{"lost":"end"}\n'; }

. "$1"
