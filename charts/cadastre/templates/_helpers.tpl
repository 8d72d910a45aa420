{{/* What several templates need: names, labels, the image, and the settings as they are given to both processes. */}}

{{- define "cadastre.labels" -}}
{{ include "cadastre.selector" . }}
app.kubernetes.io/part-of: cadastre
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The labels by which a component's pods are found: never changed, since workloads cannot change them. */}}
{{- define "cadastre.selector" -}}
app.kubernetes.io/name: cadastre-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "cadastre.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (toString ($image.tag | default .root.Chart.AppVersion)) }}
{{- end -}}
{{- end -}}

{{/* An address with a port as --listen wants it: IPv6 in brackets. The node's own is known when the pod starts. */}}
{{- define "cadastre.listen" -}}
{{- $host := ternary "$(HOST_IP)" .host (eq .host "node") -}}
{{- printf "%s:%d" (ternary (printf "[%s]" $host) $host (contains ":" $host)) (int .port) -}}
{{- end -}}

{{/* Both probes of a component. kubelet asks at the node's address; a narrower --listen has to be asked there. */}}
{{- define "cadastre.probes" -}}
{{- $any := list "::" "0.0.0.0" "node" -}}
{{- range $probe, $path := dict "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{ $probe }}:
  httpGet:
    path: {{ $path }}
    port: metrics
    {{- if not (has $.host $any) }}
    host: {{ $.host | quote }}
    {{- end }}
  {{- if eq $probe "livenessProbe" }}
  # Restarted after half a minute without an answer: rarely enough not to make an overload worse.
  periodSeconds: 10
  failureThreshold: 3
  timeoutSeconds: 5
  {{- else }}
  periodSeconds: 5
  failureThreshold: 2
  timeoutSeconds: 5
  {{- end }}
{{- end }}
{{- end -}}

{{/* The settings file: these blocks of the values unchanged, without what is null, which means not written. */}}
{{- define "cadastre.settings" -}}
{{- $settings := pick .Values "ipam" "ipv4" "ipv6" "k8s" "k8sServiceHost" "k8sServicePort" "cni" "autoDirectNodeRoutes" "MTU" "healthEndpoint" "logLevel" "logFormat" "eni" "azure" -}}
{{- $_ := set $settings "operator" (pick .Values.operator "cooling" "removeNodeTaints" "setNodeNetworkStatus") -}}
{{- $_ = set $settings "agent" (pick .Values.agent "addressCooling" "addWait") -}}
{{- $settings = deepCopy $settings -}}
{{- include "cadastre.prune" $settings -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* Removes null and empty blocks from a dict, in place; prints nothing. */}}
{{- define "cadastre.prune" -}}
{{- $dict := . -}}
{{- range $key, $value := $dict -}}
{{- if kindIs "map" $value -}}
{{- include "cadastre.prune" $value -}}
{{- end -}}
{{- if or (kindIs "invalid" $value) (and (kindIs "map" $value) (not $value)) -}}
{{- $_ := unset $dict $key -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
What agents do on their nodes, with the defaults of the settings (a test compares them): whether they install, whether they
write a CNI configuration, whether they make routes, whether they have a health endpoint, also of IPv6, and in which folders.
*/}}
{{- define "cadastre.node" -}}
{{- $cni := .Values.cni | default dict -}}
{{- $install := ne (toString $cni.install) "false" -}}
{{- $writes := and $install (ne (toString $cni.customConf) "true") -}}
{{- $routes := kindIs "bool" .Values.autoDirectNodeRoutes | ternary .Values.autoDirectNodeRoutes $writes -}}
{{- $health := and $writes (ne (toString (.Values.healthEndpoint | default dict).enabled) "false") -}}
{{- $kubernetes := eq (toString (.Values.ipam | default dict).mode) "kubernetes" -}}
{{- $required := and $kubernetes (eq (toString (.Values.k8s | default dict).requireIPv6PodCIDR) "true") -}}
{{- $ipv6 := or $required (eq (toString (.Values.ipv6 | default dict).enabled) "true") -}}
{{- dict
  "install" $install
  "writes" $writes
  "routes" $routes
  "health" $health
  "healthIPv6" (and $health $ipv6)
  "confPath" ($cni.confPath | default "/etc/cni/net.d")
  "binPath" ($cni.binPath | default "/opt/cni/bin")
  | toJson -}}
{{- end -}}

{{/* What is there during `helm test` only, made in the order of these weights. */}}
{{- define "cadastre.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end -}}
