id=
while true; do
  type=message data=
  while IFS= read -r line; do
    case $line in
    "event: "*) type=${line#event: } ;;
    "id: "*) id=${line#id: } ;;
    "data: "*) data+=${line#data: }$'\n' ;;
    "")
      if [[ $data ]]; then show "$type" "$id" "${data%$'\n'}"; fi
      type=message data=
      ;;
    esac
  done < <(curl -sN -H "Accept: text/event-stream" ${id:+-H "Last-Event-ID: $id"} "$url")
  lost
  sleep 1
done
