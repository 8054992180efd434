/** Asks before changes are lost. */
import { answerLeaving } from "../state/unsaved.ts";
import { Dialog } from "./dialog.tsx";

export function LeaveDialog() {
  const stay = () => answerLeaving({ lose: false });
  return (
    <Dialog title="Lose your changes?" onClose={stay}>
      <p>What you have entered is not saved.</p>
      <div class="actions">
        <button type="button" class="button danger" onClick={() => answerLeaving({ lose: true })}>
          Lose the changes
        </button>
        <button type="button" class="button primary" onClick={stay}>
          Keep editing
        </button>
      </div>
    </Dialog>
  );
}
