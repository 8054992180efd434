# opsjobs-helper pipeline 1
# Runs a text in a pipeline of its own, and turns objects into lines as the console shows them.
param($p)
if ($p.folder) {
    if (-not [IO.Directory]::Exists($p.folder)) { throw ($p.nonce + ' folder') }
    Set-Location -LiteralPath $p.folder
}
foreach ($name in @($p.environment.Keys)) {
    [Environment]::SetEnvironmentVariable($name, $p.environment[$name])
}
$global:LASTEXITCODE = 0
$code = [scriptblock]::Create($p.text)
$arguments = @($p.arguments)
$held = New-Object Collections.ArrayList
function Show-Held {
    if ($held.Count -gt 0) {
        $held.ToArray() | Out-String -Stream -Width 200 | ForEach-Object { $_.TrimEnd() }
        $held.Clear()
    }
}
try {
    $input | & $code @arguments | ForEach-Object {
        if ($_ -is [string]) { Show-Held; $_ }
        else {
            [void]$held.Add($_)
            if ($held.Count -ge 100) { Show-Held }
        }
    }
} finally { Show-Held }
if ($p.command -and $global:LASTEXITCODE) { exit $global:LASTEXITCODE }
