{{- define "keybeat.name" -}}
{{- if contains "keybeat" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-keybeat" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keybeat.selector" -}}
app.kubernetes.io/name: keybeat
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keybeat.labels" -}}
{{ include "keybeat.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* What would start no daemon, or one that everybody may use by accident, is refused here. */ -}}
{{- define "keybeat.check" -}}
{{- if and .Values.redis.url .Values.redis.urlSecret.name -}}
{{- fail "redis.url and redis.urlSecret.name are both set; remove one" -}}
{{- end -}}
{{- if not (or .Values.redis.url .Values.redis.urlSecret.name) -}}
{{- fail "redis.url is empty; set it to the URL of your Redis, or redis.urlSecret.name to a Secret with it" -}}
{{- end -}}
{{- if and .Values.auth.secret .Values.auth.noAuth -}}
{{- fail "auth.secret and auth.noAuth are both set; remove one" -}}
{{- end -}}
{{- if not (or .Values.auth.secret .Values.auth.noAuth) -}}
{{- fail "auth.secret is empty; set it to a Secret with jwt-key, jwt-secret or service-token, or set auth.noAuth, with which everybody on the network may do everything" -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- if has $name (list "redis" "listen" "admin-listen" "drain" "no-auth" "config") -}}
{{- fail (printf "settings.%s: the chart sets --%s itself; use the values of its own for it" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A value as an argument: lists with commas, and whole numbers as such. */ -}}
{{- define "keybeat.value" -}}
{{- if kindIs "slice" . -}}{{ join "," . }}
{{- else if kindIs "float64" . -}}{{ int64 . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end -}}
