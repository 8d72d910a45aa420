{{/* The refusals of guard.yaml. Each prints nothing or fails with what is recorded, what was read, and the remedy. */}}

{{- define "cadastre.guardMode" -}}
{{- $mode := (.values.ipam).mode | default "cluster-pool" -}}
{{- if ne $mode .recorded -}}
{{- $holders := include "cadastre.holders" "" -}}
{{- fail (printf "ipam.mode: this cluster runs in mode %s, and it cannot be changed to %s while blocks are in use: %s. Set ipam.mode back to %s; or, to change it, drain and remove every node first, and wait until their blocks have cooled (kubectl get ipamconfig)" .recorded $mode $holders .recorded) -}}
{{- end -}}
{{- end -}}

{{/* An admitted CIDR that blocks are in use of must stay in the list of its family, and keep its mask. */}}
{{- define "cadastre.guardCIDR" -}}
{{- $family := ternary "IPv6" "IPv4" (contains ":" .admitted.cidr) -}}
{{- $pool := include (printf "cadastre.pool%s" $family) .values | fromJson -}}
{{- $block := printf "blocks of /%d cut from %s are in use: %s" (int .admitted.maskSize) .admitted.cidr (include "cadastre.holders" $family) -}}
{{- if not $pool.enabled -}}
{{- fail (printf "%s.enabled: false, but %s. Enable %s again" (lower $family) $block $family) -}}
{{- end -}}
{{- if not (has (lower .admitted.cidr) $pool.cidrs) -}}
{{- fail (printf "ipam.operator.clusterPool%sPodCIDRList: %s is not in it, but %s. Add it again, spelled so; other CIDRs can be appended" $family .admitted.cidr $block) -}}
{{- end -}}
{{- if ne (int $pool.mask) (int .admitted.maskSize) -}}
{{- fail (printf "ipam.operator.clusterPool%sMaskSize: %d, but %s. Set it back to %d" $family (int $pool.mask) $block (int .admitted.maskSize)) -}}
{{- end -}}
{{- end -}}

{{/* The pools as written, in either spelling, else the defaults of the settings (a test compares them). */}}
{{- define "cadastre.poolIPv4" -}}
{{- $older := .ipam | default dict -}}
{{- $new := $older.operator | default dict -}}
{{- dict
  "enabled" (ne (toString (.ipv4).enabled) "false")
  "cidrs" (include "cadastre.cidrs" (coalesce $new.clusterPoolIPv4PodCIDRList $older.clusterPoolIPv4 "10.0.0.0/8") | fromJsonArray)
  "mask" (coalesce $new.clusterPoolIPv4MaskSize $older.clusterPoolIPv4MaskSize 24)
  | toJson -}}
{{- end -}}

{{- define "cadastre.poolIPv6" -}}
{{- $older := .ipam | default dict -}}
{{- $new := $older.operator | default dict -}}
{{- dict
  "enabled" (eq (toString (.ipv6).enabled) "true")
  "cidrs" (include "cadastre.cidrs" (coalesce $new.clusterPoolIPv6PodCIDRList $older.clusterPoolIPv6 "fd00::/104") | fromJsonArray)
  "mask" (coalesce $new.clusterPoolIPv6MaskSize $older.clusterPoolIPv6MaskSize 120)
  | toJson -}}
{{- end -}}

{{/* A list, or one text with spaces or commas between, as a JSON list. */}}
{{- define "cadastre.cidrs" -}}
{{- $text := kindIs "slice" . | ternary (join " " .) (toString .) | lower -}}
{{- regexSplit "[, \t\n]+" (trim $text) -1 | toJson -}}
{{- end -}}

{{/* Which nodes hold blocks, in words: of the given family, or of any. */}}
{{- define "cadastre.holders" -}}
{{- $names := list -}}
{{- range (lookup "cadastre.io/v1alpha1" "IPAMNode" "" "").items -}}
{{- $blocks := dig "spec" "ipam" "podCIDRs" list . | join " " -}}
{{- if or (and $blocks (eq $ ""))
          (and (eq $ "IPv4") (contains "." $blocks))
          (and (eq $ "IPv6") (contains ":" $blocks)) -}}
{{- $names = append $names .metadata.name -}}
{{- end -}}
{{- end -}}
{{- if not $names -}}
no node holds one, but those of deleted nodes still cool
{{- else -}}
{{- $shown := slice $names 0 (min 5 (len $names)) -}}
{{ len $names }} {{ ternary "node holds" "nodes hold" (eq (len $names) 1) }} {{ with $ }}{{ . }} {{ end }}blocks ({{ join ", " $shown }}{{ if gt (len $names) 5 }}, …{{ end }})
{{- end -}}
{{- end -}}
