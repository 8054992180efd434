# opsjobs-helper clean 1
# Removes the folder of a program that was killed, and its helper with it.
param($stdin, $p)
$folder = [IO.Path]::Combine([IO.Path]::GetTempPath(), 'opsjobs-' + $p.place)
for ($attempt = 0; $attempt -lt 20 -and [IO.Directory]::Exists($folder); $attempt++) {
    try { [IO.Directory]::Delete($folder, $true) } catch { Start-Sleep -Milliseconds 500 }
}
if ([IO.Directory]::Exists($folder)) { exit 1 }
exit 0
