{{- /*
Certificates of the parts that serve over TLS, brain and webhook. All of these take the root context and the part.
*/}}

{{- define "nebulnetes.tlsSecret" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $certificates := (index $root.Values $part).certificates }}
{{- if eq $certificates.mode "existingSecret" }}
{{- required (printf "%s.certificates.existingSecret: with mode existingSecret, give the name of the Secret" $part) $certificates.existingSecret }}
{{- else }}
{{- printf "%s-%s-tls" (include "nebulnetes.fullname" $root) $part }}
{{- end }}
{{- end }}

{{- /* What the certificate is made for, as JSON: names (dns), addresses (ips), and both as one text (all). */}}
{{- define "nebulnetes.tlsNames" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $service := printf "%s-%s.%s.svc" (include "nebulnetes.fullname" $root) $part $root.Release.Namespace }}
{{- $dns := list $service (printf "%s.cluster.local" $service) }}
{{- $ips := list }}
{{- $host := "" }}
{{- if eq $part "webhook" }}
{{- with $root.Values.webhook.url }}
{{- $host = (urlParse .).hostname }}
{{- end }}
{{- else }}
{{- /* What people have who reach it by kubectl port-forward. */}}
{{- $dns = append $dns "localhost" }}
{{- $ips = append $ips "127.0.0.1" }}
{{- with $root.Values.agent.brainAddress }}
{{- $host = regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]" }}
{{- end }}
{{- end }}
{{- if regexMatch "^[0-9.]+$|:" $host }}
{{- $ips = append $ips $host | uniq }}
{{- else if $host }}
{{- $dns = append $dns $host | uniq }}
{{- end }}
{{- dict "dns" $dns "ips" $ips "all" (concat $dns $ips | join ",") | toJson }}
{{- end }}

{{- /*
What there is to trust and to keep, as JSON: the PEM of the authorities, "" where the chart does not know them; and the
data of the Secret, where helm makes it. Each call makes another: call it once for a part.
*/}}
{{- define "nebulnetes.tlsMade" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $certificates := (index $root.Values $part).certificates }}
{{- $authorities := "" }}
{{- $data := dict }}
{{- if eq $certificates.mode "existingSecret" }}
{{- $authorities = $certificates.caBundle }}
{{- else if eq $certificates.mode "selfSigned" }}
{{- $names := include "nebulnetes.tlsNames" . | fromJson }}
{{- /* What exists is kept, as long as it is valid for the names of today. */}}
{{- $kept := lookup "v1" "Secret" $root.Release.Namespace (include "nebulnetes.tlsSecret" .) | default dict }}
{{- if and $kept.data (eq (dig "metadata" "annotations" "n8s.nebuly.ai/certificate-for" "" $kept) $names.all) }}
{{- $data = $kept.data }}
{{- else }}
{{- $ca := genCAWithKey (printf "%s-%s CA" (include "nebulnetes.fullname" $root) $part) 3650 (genPrivateKey "ecdsa") }}
{{- $made := genSignedCertWithKey (first $names.dns) $names.ips $names.dns 3650 $ca (genPrivateKey "ecdsa") }}
{{- $data = dict "ca.crt" ($ca.Cert | b64enc) "tls.crt" ($made.Cert | b64enc) "tls.key" ($made.Key | b64enc) }}
{{- end }}
{{- /* Of a certificate that is replaced, the CA is trusted until the next upgrade: pods show it until they are. */}}
{{- range list (index $data "ca.crt") (dig "data" "ca.crt" "" $kept) | uniq | compact }}
{{- $authorities = print $authorities (b64dec .) }}
{{- end }}
{{- end }}
{{- dict "authorities" $authorities "data" $data | toJson }}
{{- end }}

{{- /* The objects that hold the certificate or have it issued; takes the data of the Secret besides. */}}
{{- define "nebulnetes.tlsObjects" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $data := index . 2 }}
{{- $labels := include "nebulnetes.labels" (list $root $part) }}
{{- $name := printf "%s-%s" (include "nebulnetes.fullname" $root) $part }}
{{- $certificates := (index $root.Values $part).certificates }}
{{- $secret := include "nebulnetes.tlsSecret" (list $root $part) }}
{{- $names := include "nebulnetes.tlsNames" (list $root $part) | fromJson }}
{{- if eq $certificates.mode "selfSigned" }}
apiVersion: v1
kind: Secret
metadata:
  name: {{ $secret }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    n8s.nebuly.ai/certificate-for: {{ $names.all | quote }}
type: kubernetes.io/tls
data:
  {{- toYaml $data | nindent 2 }}
---
{{- else if eq $certificates.mode "certManager" }}
{{- if not $certificates.issuerRef.name }}
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
spec:
  selfSigned: {}
---
{{- end }}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
spec:
  secretName: {{ $secret }}
  dnsNames:
    {{- toYaml $names.dns | nindent 4 }}
  {{- with $names.ips }}
  ipAddresses:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  issuerRef:
    group: cert-manager.io
    {{- if $certificates.issuerRef.name }}
    kind: {{ $certificates.issuerRef.kind }}
    name: {{ $certificates.issuerRef.name }}
    {{- else }}
    kind: Issuer
    name: {{ $name }}
    {{- end }}
---
{{- end }}
{{- end }}

{{- /* Annotations of pods: with another certificate from helm come others, as these would show the old one for a while. */}}
{{- define "nebulnetes.tlsAnnotations" -}}
{{- $annotations := dict }}
{{- if eq (index (index . 0).Values (index . 1)).certificates.mode "selfSigned" }}
{{- $_ := set $annotations "n8s.nebuly.ai/certificate-for" (include "nebulnetes.tlsNames" . | fromJson).all }}
{{- end }}
{{- toJson $annotations }}
{{- end }}

{{- /* Where the certificate is in pods, as mount and as volume. */}}
{{- define "nebulnetes.tlsMount" -}}
- name: tls
  mountPath: /run/nebulnetes/tls
  readOnly: true
{{- end }}

{{- define "nebulnetes.tlsVolume" -}}
- name: tls
  secret:
    secretName: {{ include "nebulnetes.tlsSecret" . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}

{{- /* ConfigMap with the authorities of the brain's certificate; fixed, as clients look for it. */}}
{{- define "nebulnetes.brainCA" -}}
n8s-brain-ca
{{- end }}

{{- /* Not empty where the chart knows these authorities, so that there is that ConfigMap. */}}
{{- define "nebulnetes.brainCAKnown" -}}
{{- with .Values.brain.certificates }}
{{- if or (eq .mode "selfSigned") (and (eq .mode "existingSecret") .caBundle) }}yes{{ end }}
{{- end }}
{{- end }}
