/** A file whose text is put into a form; nothing is sent. */
import { Field } from "./form.tsx";
import { toast } from "./toast.tsx";

const BYTES_MAX = 1 << 20;

interface FileFieldProps {
  label: string;
  hint: string;
  /** Extensions that are offered first, such as `.yaml,.yml`. */
  accept?: string;
  onText: (text: string, name: string) => void;
}

export function FileField({ label, hint, accept, onText }: FileFieldProps) {
  return (
    <Field label={label} hint={hint}>
      <input
        class="input"
        type="file"
        accept={accept}
        onChange={async (event) => {
          const file = event.currentTarget.files?.[0];
          if (!file) return;
          if (file.size > BYTES_MAX) toast(`${file.name} is larger than 1 MiB`, "bad");
          else onText(await file.text(), file.name);
        }}
      />
    </Field>
  );
}
