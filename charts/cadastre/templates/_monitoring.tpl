{{/* What a ServiceMonitor and a PodMonitor have in common. */}}

{{/* Refuses what would scrape everything twice. */}}
{{- define "cadastre.oneMonitor" -}}
{{- if and (.prometheus.serviceMonitor).enabled (.prometheus.podMonitor).enabled -}}
{{- fail (printf "%s.prometheus: serviceMonitor.enabled and podMonitor.enabled are both true, so that everything would be scraped twice. Set one of them to false" .component) -}}
{{- end -}}
{{- end -}}

{{/* The endpoint of a monitor's settings. */}}
{{- define "cadastre.endpoint" -}}
port: metrics
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Name, labels and annotations of an object for Prometheus Operator or Grafana: root, component, name, settings. */}}
{{- define "cadastre.monitored" -}}
name: {{ .name }}
namespace: {{ .settings.namespace | default .root.Release.Namespace }}
labels:
  {{- include "cadastre.labels" . | nindent 2 }}
  {{- with .settings.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .settings.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
